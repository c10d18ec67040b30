#!/bin/sh
# Push every event of a folder, a JSON file each, as the bank:
#
#   URL=http://127.0.0.1:8000 BANK=bank:bank-secret examples/push-all.sh demo-tpp events/
#
# The name of a file is its jti: run it again after whatever went wrong, and nothing is pushed twice. What is pushed moves
# to the folder's sent/. Exits 1 if something could not be pushed.
set -u
tpp=$1 folder=${2%/} failed=0
mkdir -p "$folder/sent"
for file in "$folder"/*.json; do
	[ -e "$file" ] || continue
	jti=$(basename "$file" .json)
	status=$(printf 'user = "%s"\n' "$BANK" | curl --silent --output "$folder/.answer" --write-out '%{http_code}' --config - \
		--header 'Content-Type: application/json' --data "{\"jti\": \"$jti\", \"events\": $(cat "$file")}" "$URL/streams/$tpp/sets")
	case $status in
	200 | 201) mv "$file" "$folder/sent/" && echo "$jti: pushed" ;;
	*) failed=1 && echo "$jti: $status $(cat "$folder/.answer" 2>/dev/null)" >&2 ;;
	esac
done
rm -f "$folder/.answer"
exit $failed
