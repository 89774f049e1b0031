#!/usr/bin/env bash
# Images with several labels: train on all classes, or on base classes, test, and print a table of mAP.
#
#   bash scripts/several_labels.sh [DATASET ...] [options] [KEY VALUE ...]      (default: emoji_scenes)
#
# Environment: TRAINERS ("ZeroshotCLIP LinearProbe CoOp DualCoOp ALIGN"), SHOTS (images that have a
# class, as in "1 2 4"; default 0, all images), KNOWN (shares of labels that are known, as in "0.1
# 0.5", instead of SHOTS), HALVES (1: base-to-new), and the variables in run.sh. Options, and KEY
# VALUE pairs for train.py: see `--help`. Rerun to resume.
source "$(dirname "${BASH_SOURCE[0]}")/run.sh"

protocol=several_labels
[[ ${HALVES:-0} == 0 ]] || protocol=several_base2new
run "$protocol" ${TRAINERS:+--trainers "$TRAINERS"} ${KNOWN:+--known "$KNOWN"} "$@"
