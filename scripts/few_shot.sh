#!/usr/bin/env bash
# Few-shot recognition: train with few images of all classes, test on all, and print a table.
#
#   bash scripts/few_shot.sh [DATASET ...] [options] [KEY VALUE ...]      (default: emoji)
#
# Environment: TRAINERS ("ZeroshotCLIP CoOp MaPLe ALIGN"), SHOTS ("1 2 4 8 16"), and the variables
# in run.sh. Options, and KEY VALUE pairs for train.py: see `--help`. Rerun to resume.
source "$(dirname "${BASH_SOURCE[0]}")/run.sh"

run few_shot ${TRAINERS:+--trainers "$TRAINERS"} "$@"
