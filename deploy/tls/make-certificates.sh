#!/bin/sh
# Makes an authority and a certificate each for the scheduler, the workers and the commands of one cluster.
#
#   sh deploy/tls/make-certificates.sh DIR     # new folder; DIR/dask-tls.env is what the parts have in their environment
#
# Whoever has one of these keys can run code on the cluster. ca.key signs further ones and belongs on no machine of it:
# keep it elsewhere. Dask looks at who signed, not at names of hosts, so one certificate serves any number of workers.
set -eu

if [ $# -ne 1 ]; then
    echo "usage: $0 DIR" >&2
    exit 2
fi
mkdir -m 700 -- "$1"
folder=$(cd -- "$1" && pwd)
umask 077

quietly() {
    said=$("$@" 2>&1) || { echo "$said" >&2; exit 1; }
}

curve="-newkey ec -pkeyopt ec_paramgen_curve:P-256"

# shellcheck disable=SC2086 # $curve is several words
make_authority() {
    quietly openssl req -x509 $curve -nodes -days 3650 -subj "/CN=cdlabel cluster authority" \
        -keyout "$folder/ca.key" -out "$folder/ca.pem"
}

# shellcheck disable=SC2086
make_certificate() {
    quietly openssl req $curve -nodes -subj "/CN=cdlabel $1" -keyout "$folder/$1.key" -out "$folder/$1.csr"
    quietly openssl x509 -req -in "$folder/$1.csr" -CA "$folder/ca.pem" -CAkey "$folder/ca.key" -CAcreateserial \
        -days 365 -out "$folder/$1.pem"
    rm -- "$folder/$1.csr"
}

make_authority
for part in scheduler worker client; do
    make_certificate "$part"
done
rm -f -- "$folder/ca.srl"

cat > "$folder/dask-tls.env" <<END
DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=True
DASK_DISTRIBUTED__COMM__TLS__CA_FILE="$folder/ca.pem"
DASK_DISTRIBUTED__COMM__TLS__SCHEDULER__CERT="$folder/scheduler.pem"
DASK_DISTRIBUTED__COMM__TLS__SCHEDULER__KEY="$folder/scheduler.key"
DASK_DISTRIBUTED__COMM__TLS__WORKER__CERT="$folder/worker.pem"
DASK_DISTRIBUTED__COMM__TLS__WORKER__KEY="$folder/worker.key"
DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT="$folder/client.pem"
DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY="$folder/client.key"
END
echo "certificates for a year: $folder" >&2
