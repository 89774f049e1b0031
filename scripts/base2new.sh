#!/usr/bin/env bash
# Base-to-new: train on the base classes, test on base and on new, end in a table.
#
#   bash scripts/base2new.sh [DATASET ...] [options] [KEY VALUE ...]      (default: emoji)
#
# Environment: TRAINERS ("ZeroshotCLIP CoOp ALIGN"), and those in run.sh.
# Options, and KEY VALUE pairs for train.py: see `--help`. A second call continues the first.
source "$(dirname "${BASH_SOURCE[0]}")/run.sh"

run base2new ${TRAINERS:+--trainers "$TRAINERS"} "$@"
