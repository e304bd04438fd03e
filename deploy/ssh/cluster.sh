#!/bin/bash
# A cluster over SSH, for as long as this runs: a Dask scheduler here, workers on the hosts. Ctrl-C ends all of it.
#
#   deploy/ssh/cluster.sh [-a ADDRESS] [-n WORKERS] [-e ENV_FILE] HOST...
#
#   -a ADDRESS   of the scheduler, as the hosts reach it; tcp:// or tls:// (default tcp://THIS_HOST:8786)
#   -n WORKERS   on each host (default 1); where hosts have GPUs, see deploy/gpu/workers.sh instead
#   -e ENV_FILE  settings for all parts besides deploy/dask.env, such as dask-tls.env; may be given again
#
# Every host needs this project installed at the path that `dask` has here, the files that ENV_FILE names at the paths that
# they have here, and to be reached by ssh without a password.
set -euo pipefail

usage() {
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

address="tcp://$(hostname -f):8786"
workers=1
env_files=("$(dirname -- "$0")/../dask.env")
while getopts a:n:e: option; do
    case $option in
    a) address=$OPTARG ;;
    n) workers=$OPTARG ;;
    e) env_files+=("$OPTARG") ;;
    *) usage ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || usage
dask=$(command -v dask) || { echo "no dask here; activate the environment first" >&2; exit 2; }

settings=$(cat -- "${env_files[@]}")
set -a
eval "$settings"
set +a

"$dask" scheduler --host "$address" &
scheduler=$!
connections=()

end() {
    trap - EXIT
    # Workers first: one that is told to end after its scheduler has gone waits for it.
    [ ${#connections[@]} -eq 0 ] || kill "${connections[@]}" 2>/dev/null || true
    [ ${#connections[@]} -eq 0 ] || wait "${connections[@]}" || true
    kill "$scheduler" 2>/dev/null || true
    wait "$scheduler" || true
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

for host in "$@"; do
    # With a terminal (-tt), so that the workers end when the connection does.
    ssh -tt -o BatchMode=yes -- "$host" "set -a
$settings
set +a
exec '$dask' worker '$address' --nthreads 1 --nworkers $workers --death-timeout 120" </dev/null &
    connections+=($!)
done

echo "cdlabel label SOURCE --out OUT --scheduler $address" >&2
wait "$scheduler"
