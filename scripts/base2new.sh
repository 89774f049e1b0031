#!/usr/bin/env bash
# Base-to-new: train on the base classes, test on base and on new, end in a table.
#
#   bash scripts/base2new.sh [DATASET ...] [options] [KEY VALUE ...]      (default: emoji)
#
# Environment: TRAINERS ("ZeroshotCLIP CoOp ALIGN"), SEEDS ("1 2 3"), SHOTS (16), DATA (the folder
# of the data sets), OUTPUT (output), CONFIG, BACKBONE, JOBS, PYTHON (python).
# Options, and KEY VALUE pairs for train.py: see `--help`. A second call continues the first.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

exec "${PYTHON:-python}" -m benchmark base2new \
    ${TRAINERS:+--trainers "$TRAINERS"} \
    ${SEEDS:+--seeds "$SEEDS"} \
    ${SHOTS:+--shots "$SHOTS"} \
    ${DATA:+--root "$DATA"} \
    ${OUTPUT:+--output "$OUTPUT"} \
    ${CONFIG:+--config "$CONFIG"} \
    ${BACKBONE:+--backbone "$BACKBONE"} \
    ${JOBS:+--jobs "$JOBS"} \
    "$@"
