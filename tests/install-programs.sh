#!/bin/sh
# The tests run what a bank runs with redis-cli, look at the console with Chromium, put nginx before the service, and step
# the store's clock with libfaketime.
# Installs what is missing of these, or of those that are named, where this machine lets us.
have() { command -v "$1" >/dev/null; }
[ $# = 0 ] && set -- redis-cli chromium chromedriver nginx faketime
wanted=
for program in "$@"; do
	case $program in
	redis-cli) have redis-cli || wanted="$wanted redis-server" ;;
	chromium) have chromium || have google-chrome || [ -d "/Applications/Google Chrome.app" ] || wanted="$wanted chromium" ;;
	chromedriver) have chromedriver || wanted="$wanted chromium-driver" ;;
	faketime) have faketime || wanted="$wanted faketime" ;;
	nginx) have nginx || [ -x /usr/sbin/nginx ] || wanted="$wanted nginx-light" ;;
	esac
done
[ -z "$wanted" ] && exit 0
if have apt-get; then
	run=$([ "$(id -u)" = 0 ] || echo sudo -n)
	# shellcheck disable=SC2086
	$run apt-get update -qq && $run apt-get install -y -qq --no-install-recommends $wanted >/dev/null && exit 0
fi
echo "Missing, by their names in Debian:$wanted. On macOS: brew install redis nginx libfaketime, brew install --cask google-chrome chromedriver." >&2
exit 1
