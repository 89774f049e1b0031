#!/usr/bin/env bash
# Choose settings of methods on validation images, of all data sets together; test images are not
# looked at. Ends in a table and a config file for each method.
#
#   bash scripts/tune.sh [DATASET ...] [KEY=VALUE,VALUE ...] [options] [KEY VALUE ...]
#
# Environment: TRAINERS ("CoOp ALIGN"), PROTOCOL (base2new: what the settings are for), SPACE (a
# yaml with what is tried; configs/tune has examples), BUDGET (settings tried of each method), and
# those in run.sh. A second call continues the first.
# Then: CONFIG=output/tune/base2new/chosen bash scripts/base2new.sh ...
source "$(dirname "${BASH_SOURCE[0]}")/run.sh"

run tune ${TRAINERS:+--trainers "$TRAINERS"} ${PROTOCOL:+--protocol "$PROTOCOL"} \
    ${SPACE:+--space "$SPACE"} ${BUDGET:+--budget "$BUDGET"} "$@"
