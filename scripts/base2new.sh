#!/usr/bin/env bash
# Base-to-new: train on the base classes, test on base and new classes, and print a table.
#
#   bash scripts/base2new.sh [DATASET ...] [options] [KEY VALUE ...]      (default: emoji)
#
# Environment: TRAINERS ("ZeroshotCLIP CoOp MaPLe ALIGN"), and the variables in run.sh.
# Options, and KEY VALUE pairs for train.py: see `--help`. Rerun to resume.
source "$(dirname "${BASH_SOURCE[0]}")/run.sh"

run base2new ${TRAINERS:+--trainers "$TRAINERS"} "$@"
