#!/usr/bin/env bash
# Domain generalization: train once on the source, test on its classes in other styles, and print a
# table. The training is the same as in cross_dataset.sh and is not repeated.
#
#   bash scripts/domain_generalization.sh [TARGET ...] [options] [KEY VALUE ...]
#
# Environment: SOURCE (imagenet), TARGETS (default: ImageNet V2, Sketch, A and R; for SOURCE=emoji,
# the seven shifted sets), TRAINERS ("ZeroshotCLIP CoOp MaPLe ALIGN"), and the variables in run.sh.
# Options, and KEY VALUE pairs for train.py: see `--help`. Rerun to resume.
source "$(dirname "${BASH_SOURCE[0]}")/run.sh"

run domain_generalization ${SOURCE:+--source "$SOURCE"} ${TRAINERS:+--trainers "$TRAINERS"} \
    ${TARGETS:+"$TARGETS"} "$@"
