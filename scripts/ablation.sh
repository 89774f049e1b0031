#!/usr/bin/env bash
# Ablation of ALIGN: base-to-new with each value of beta, and each M and N.
#
#   bash scripts/ablation.sh [DATASET ...] [options] [KEY VALUE ...]      (default: emoji)
#
# Environment: BETAS ("0 0.2 0.5 0.7 1"; with MN alone none), FORMS (forms of the cost for these
# betas, "convex", "additive" or both; default "convex"), MN (pairs as in "1,1 2,2 4,4"; default
# none), and the variables in run.sh. Options, and KEY VALUE pairs for train.py: see `--help`. Rerun to resume.
source "$(dirname "${BASH_SOURCE[0]}")/run.sh"

run ablation ${BETAS+--betas "$BETAS"} ${FORMS:+--forms "$FORMS"} ${MN:+--mn "$MN"} "$@"
