#!/usr/bin/env bash
# Choose settings of methods on validation images, one choice for all data sets; test images are not
# used. Prints a table and writes a config file for each method.
#
#   bash scripts/tune.sh [DATASET ...] [KEY=VALUE,VALUE ...] [options] [KEY VALUE ...]
#
# Environment: TRAINERS ("CoOp ALIGN"), PROTOCOL (the protocol that the settings are for: base2new),
# SPACE (a YAML file with the values to try; configs/tune has examples), BUDGET (most settings of a
# method), and the variables in run.sh. Rerun to resume.
# Then: CONFIG=output/tune/base2new/chosen bash scripts/base2new.sh ...
source "$(dirname "${BASH_SOURCE[0]}")/run.sh"

run tune ${TRAINERS:+--trainers "$TRAINERS"} ${PROTOCOL:+--protocol "$PROTOCOL"} \
    ${SPACE:+--space "$SPACE"} ${BUDGET:+--budget "$BUDGET"} "$@"
