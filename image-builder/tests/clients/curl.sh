# curl in all its ways against the web server at the first argument; beside it the folder `site` that it serves.
set -eu
at=$1
curl() { command curl --silent --show-error --globoff --max-time 60 "$@"; }
fail() { echo "$1" >&2; exit 1; }
is() { [ "$2" = "$3" ] || fail "$1: \"$2\", not \"$3\""; }
status() { curl --output /dev/null --write-out '%{http_code}' "$@"; }
head_of() { curl --head "$@" | tr -d '\r'; }
field() { sed -n "s/^$1: //Ip" head; }

# Whole, and only its head.
curl "$at/numbers.txt" | cmp - site/numbers.txt
curl "$at/" | cmp - site/index.html
head_of "$at/numbers.txt" > head
is length "$(field content-length)" "$(wc -c < site/numbers.txt)"
is type "$(field content-type | cut -d';' -f1)" text/plain
etag=$(field etag); modified=$(field last-modified)
[ -n "$etag" ] || fail 'no ETag'
is missing "$(status "$at/nothing")" 404
is traversal "$(status --path-as-is "$at/../../etc/passwd")" 400
is method "$(status --request DELETE "$at/")" 405
is options "$(status --request OPTIONS "$at/")" 204

# Ranges.
curl --range 100-199 "$at/numbers.txt" > part; tail -c +101 site/numbers.txt | head -c 100 | cmp - part
curl --range -50 "$at/numbers.txt" > part; tail -c 50 site/numbers.txt | cmp - part
curl --range 300000- "$at/numbers.txt" > part; tail -c +300001 site/numbers.txt | cmp - part
is 'beyond the end' "$(status --range 99999999- "$at/numbers.txt")" 416
is 'two ranges' "$(status --range 0-1,10-11 "$at/numbers.txt")" 206
head -c 100000 site/numbers.txt > resumed; curl --continue-at - --output resumed "$at/numbers.txt"; cmp resumed site/numbers.txt

# Conditional.
is 'same tag' "$(status --header "If-None-Match: $etag" "$at/numbers.txt")" 304
is 'other tag' "$(status --header 'If-None-Match: "other"' "$at/numbers.txt")" 200
is 'tag wanted' "$(status --header 'If-Match: "other"' "$at/numbers.txt")" 412
if [ -n "$modified" ]; then
    is 'not modified since' "$(status --header "If-Modified-Since: $modified" "$at/numbers.txt")" 304
fi
is 'range of another' "$(status --header 'If-Range: "other"' --range 0-9 "$at/numbers.txt")" 200
curl --etag-save tag --output /dev/null "$at/numbers.txt"
is 'saved tag' "$(status --etag-compare tag "$at/numbers.txt")" 304

# Compressed.
curl --compressed --dump-header head "$at/numbers.txt" | cmp - site/numbers.txt
tr -d '\r' < head > head2; mv head2 head
is encoding "$(field content-encoding)" gzip
curl --header 'Accept-Encoding: gzip' "$at/numbers.txt" | gzip -d | cmp - site/numbers.txt

# One connection for many; HTTP/1.0; an upload that nobody wants; eight at once.
connections=$(curl --output /dev/null --output /dev/null --output /dev/null --write-out '%{num_connects}\n' "$at/" "$at/numbers.txt" "$at/" | tr -d '\n')
is connections "$connections" 100
is 'HTTP/1.0' "$(status --http1.0 "$at/")" 200
is put "$(status --upload-file site/index.html "$at/index.html")" 405
is 'expect 100' "$(status --header 'Expect: 100-continue' --data-binary @site/index.html "$at/")" 405
command curl --silent --show-error --globoff --max-time 60 --parallel --parallel-max 8 --remote-name-all --output-dir . \
    $(for number in 1 2 3 4 5 6 7 8; do echo "$at/numbers.txt"; done) 2> errors || fail "$(cat errors)"
cmp numbers.txt site/numbers.txt
echo "curl is content"
