#!/bin/sh
# What the benchmark is better with: wrk, redis-cli, and the peers in .venv/bench. It runs without, and says so.
# Nothing here starts a service: webdis is unpacked, not installed.
cd "$(dirname "$0")/.." || exit 1
sh tests/install-programs.sh redis-cli || true
run=$([ "$(id -u)" = 0 ] || echo sudo -n)
if command -v apt-get >/dev/null && ! command -v wrk >/dev/null; then
	$run apt-get update -qq && $run apt-get install -y -qq wrk >/dev/null
fi
peers=.venv/bench
if ! [ -e "$peers/made" ] || [ bench/requirements.lock -nt "$peers/made" ]; then
	"${PYTHON:-python3}" -m venv "$peers" &&
		"$peers/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r bench/requirements.lock &&
		touch "$peers/made"
fi
if command -v apt-get >/dev/null && ! [ -e "$peers/webdis" ]; then
	mkdir -p "$peers/packages"
	(
		cd "$peers/packages" && apt-get download -qq webdis libhiredis0.14 libb64-0d libjansson4 libevent-2.1-7 &&
			for package in *.deb; do dpkg -x "$package" unpacked || exit 1; done && mv unpacked ../webdis
	) 2>/dev/null
	rm -rf "$peers/packages"
fi
exit 0
