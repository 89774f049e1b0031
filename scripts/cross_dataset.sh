#!/usr/bin/env bash
# Cross-dataset transfer: train once on the source, test on other data sets, and print a table.
#
#   bash scripts/cross_dataset.sh [TARGET ...] [options] [KEY VALUE ...]
#
# Environment: SOURCE (imagenet), TARGETS (default: the ten other data sets; for SOURCE=emoji,
# emoji_animals and emoji_food), TRAINERS ("ZeroshotCLIP CoOp MaPLe ALIGN"), and the variables in
# run.sh. Options, and KEY VALUE pairs for train.py: see `--help`. Rerun to resume.
source "$(dirname "${BASH_SOURCE[0]}")/run.sh"

run cross_dataset ${SOURCE:+--source "$SOURCE"} ${TRAINERS:+--trainers "$TRAINERS"} \
    ${TARGETS:+"$TARGETS"} "$@"
