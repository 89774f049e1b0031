#!/usr/bin/env bash
# Ablation of ALIGN: base-to-new with each beta, with each M and N, and with each plan.
#
#   bash scripts/ablation.sh [DATASET ...] [options] [KEY VALUE ...]      (default: emoji)
#
# Environment: BETAS ("0 0.2 0.5 0.7 1"; BETAS= for none), FORMS ("convex": the forms of the cost
# to try them in, convex and additive), MN (pairs as in "1,1 2,2 4,4"; none unless given), PLANS (in
# place of transport: "sinkhorn uniform nearest"; none unless given), and those in run.sh.
# Options, and KEY VALUE pairs for train.py: see `--help`. A second call continues the first.
source "$(dirname "${BASH_SOURCE[0]}")/run.sh"

run ablation ${BETAS+--betas "$BETAS"} ${FORMS:+--forms "$FORMS"} ${MN:+--mn "$MN"} \
    ${PLANS:+--plans "$PLANS"} "$@"
