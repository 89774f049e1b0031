#!/usr/bin/env bash
# Domain generalization: train once on the source, test on its classes in other styles, end in a
# table. The training is that of cross_dataset.sh, and is not repeated.
#
#   bash scripts/domain_generalization.sh [TARGET ...] [options] [KEY VALUE ...]
#
# Environment: SOURCE (imagenet), TARGETS (V2, Sketch, A and R; of emoji: the other data sets
# with its classes), TRAINERS ("ZeroshotCLIP CoOp ALIGN"), and those in run.sh.
# Options, and KEY VALUE pairs for train.py: see `--help`. A second call continues the first.
source "$(dirname "${BASH_SOURCE[0]}")/run.sh"

run domain_generalization ${SOURCE:+--source "$SOURCE"} ${TRAINERS:+--trainers "$TRAINERS"} \
    ${TARGETS:+"$TARGETS"} "$@"
