#!/bin/sh
# Run a command with CDLABEL_TEST_S3_ENDPOINT, _KEY and _SECRET naming a real S3 server: the one that they name already, or
# one that CDLABEL_TEST_S3_START starts on loopback. That script is called with an empty folder, returns when the server
# answers on 127.0.0.1:7480 (key "test", secret "testsecret"), and leaves the ids of its processes in *.pid of that folder.
set -u
if [ -n "${CDLABEL_TEST_S3_ENDPOINT:-}" ]; then
    exec "$@"
fi
start=${CDLABEL_TEST_S3_START:-../shared/s3/start_ceph.sh}
if [ ! -f "$start" ]; then
    echo "make test-s3: no script at $start that starts an S3 server. Name one in CDLABEL_TEST_S3_START," >&2
    echo "or point at any S3 server, where buckets named cdlabel-test-* are made and deleted:" >&2
    echo "CDLABEL_TEST_S3_ENDPOINT=http://127.0.0.1:9000 CDLABEL_TEST_S3_KEY=... CDLABEL_TEST_S3_SECRET=... make test-s3" >&2
    exit 2
fi
folder=$(mktemp -d)
end() {
    for file in "$folder"/server/*.pid; do
        [ -f "$file" ] && kill "$(cat "$file")" 2>/dev/null
    done
    rm -rf "$folder"
}
trap end EXIT
trap 'exit 130' INT TERM
bash "$start" "$folder/server" || exit 2
export CDLABEL_TEST_S3_ENDPOINT=http://127.0.0.1:7480 CDLABEL_TEST_S3_KEY=test CDLABEL_TEST_S3_SECRET=testsecret
"$@"
