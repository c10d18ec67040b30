#!/bin/sh
# The tests run what a bank runs with redis-cli. Installs it where it is missing and this machine lets us.
command -v redis-cli >/dev/null && exit 0
if command -v apt-get >/dev/null; then
	run=$([ "$(id -u)" = 0 ] || echo sudo -n)
	$run apt-get update -qq && $run apt-get install -y -qq redis-server >/dev/null && exit 0
fi
echo "The tests need redis-cli: install Debian's redis-tools, or brew install redis." >&2
exit 1
