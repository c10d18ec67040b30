#!/bin/sh
# Poll once with curl, and acknowledge what is named:  URL=http://127.0.0.1:8000 TPP=demo-tpp SECRET=demo-secret examples/poll.sh [JTI…]
#
# Prints the answer: {"sets": {jti: SET, …}, "moreAvailable": …}. The jtis must hold no quotes and no backslashes.
set -eu
ack=
for jti in "$@"; do ack="$ack${ack:+, }\"$jti\""; done
# The password goes through standard input: an argument is for every user of the machine to see.
printf 'user = "%s:%s"\n' "$TPP" "$SECRET" | curl --silent --show-error --fail-with-body --config - \
	--header 'Content-Type: application/json' --data "{\"ack\": [$ack], \"returnImmediately\": true}" "$URL/events"
