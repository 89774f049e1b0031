#!/usr/bin/env bash
# Everything that is to be known of a GPU: correctness, transport solvers, steps and evaluations,
# killed and resumed runs, a benchmark. Writes docs/gpu/DEVICE.md.
#
#   bash scripts/gpu_report.sh [options]
#
# It takes about an hour, by an estimate, needs no network, and continues where it was stopped. With
# MINUTES=9 a call ends after about nine minutes; call it again until the report is complete.
# Each piece is useful alone: PIECES="solver" bash scripts/gpu_report.sh
# The page names what failed; --again measures it again.
#
# Environment: PIECES ("check solver steps resume run"), MINUTES, OUTPUT (output/gpu), DATA (folder
# of the data sets, data), PYTHON. Options: --public PATH, --all, --again, --small: see
# `python -m tools.gpu -h`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ ! ${MINUTES:-1} =~ ^[1-9][0-9]*$ ]]; then
    echo "gpu_report.sh: MINUTES is '$MINUTES' but must be a whole number, 1 or more" >&2
    exit 2
fi
ends=$((SECONDS + 60 * ${MINUTES:-1000000}))
gpu() { "${PYTHON:-python}" -m tools.gpu "$1" --output "${OUTPUT:-output/gpu}" --root "${DATA:-data}" "${@:2}"; }

state=complete worst=0
for piece in ${PIECES:-check solver steps resume run}; do
    left=$(((ends - SECONDS) / 60))
    if ((left < 1)); then
        state="not complete: call it again"
        break
    fi
    code=0
    gpu "$piece" --minutes "$left" "$@" || code=$?
    if ((code == 3)); then
        state="not complete: call it again"
    elif ((code == 2)); then
        exit 2
    elif ((code)); then # the other pieces are useful without it
        state="not complete: $piece failed" worst=$code
    fi
done
gpu page "$@"
echo "The report is $state"
exit "$worst"
