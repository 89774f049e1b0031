#!/usr/bin/env bash
# The tables of the papers from a bare GPU machine: downloads data, compares zero-shot CLIP with the
# published numbers, does the runs, and makes a report. Rerun to resume.
#
#   bash scripts/paper.sh [DATASET ...] [options] [KEY VALUE ...]      (default: ten, base-to-new)
#
# Environment: ALSO ("few_shot transfer": protocols after base-to-new), TRAINERS ("ZeroshotCLIP CoOp
# MaPLe ALIGN"), and of the variables in run.sh SEEDS, DATA (data), OUTPUT (output/paper), CONFIG,
# PLUGINS, BACKBONE, JOBS, SLURM and PYTHON. Options, and KEY VALUE pairs for train.py: see `--help`.
source "$(dirname "${BASH_SOURCE[0]}")/run.sh"

run paper ${ALSO:+--also "$ALSO"} ${TRAINERS:+--trainers "$TRAINERS"} "$@"
