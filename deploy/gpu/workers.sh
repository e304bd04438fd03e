#!/bin/bash
# The workers of one machine with GPUs: one for each, until they or the scheduler end.
#
#   deploy/gpu/workers.sh SCHEDULER_ADDRESS
#
# With dask-cuda where it is installed, which also binds each worker to the cores near its GPU; otherwise by
# CUDA_VISIBLE_DEVICES alone. dask-cuda wants one certain version of Dask: docs/scale-out.md.
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: $0 SCHEDULER_ADDRESS" >&2; exit 2; }
address=$1
set -a
# shellcheck source=../dask.env
. "$(dirname -- "$0")/../dask.env"
set +a
options=(--nthreads 1 --resources GPU=1 --death-timeout 120 --local-directory "${TMPDIR:-/tmp}")

if python -c "import dask_cuda" 2>/dev/null; then
    exec dask cuda worker "$address" "${options[@]}"
fi

workers=()
for gpu in $(nvidia-smi --query-gpu=index --format=csv,noheader); do
    CUDA_VISIBLE_DEVICES=$gpu dask worker "$address" "${options[@]}" &
    workers+=($!)
done
[ ${#workers[@]} -gt 0 ] || { echo "nvidia-smi names no GPU" >&2; exit 1; }
trap 'kill "${workers[@]}" 2>/dev/null || true' INT TERM
code=0
wait "${workers[@]}" || code=$?
wait # a signal ends the wait above at once, and not the workers
exit "$code"
