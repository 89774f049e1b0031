#!/usr/bin/env bash
# Ablation of ALIGN: base-to-new with each value of beta, and each M and N. One table shows all.
#
#   bash scripts/ablation.sh [DATASET ...] [options] [KEY VALUE ...]      (default: emoji)
#
# Environment: BETAS ("0 0.2 0.5 0.7 1"; with MN alone none), FORMS (forms of the cost for these
# betas, "convex", "additive" or both; default "convex"), MN (pairs as in "1,1 2,2 4,4"; default
# none), OUTPUT (output/ablation), and the variables in run.sh. Options, and KEY VALUE pairs for
# train.py: see `--help`. Rerun to resume.
source "$(dirname "${BASH_SOURCE[0]}")/run.sh"

export OUTPUT=${OUTPUT:-output/ablation}
[[ ${MN:-} && ! ${FORMS:-} ]] || : "${BETAS=0 0.2 0.5 0.7 1}"
for pair in ${MN:-}; do
    if ! [[ $pair =~ ^[1-9][0-9]*,[1-9][0-9]*$ ]]; then
        echo "ablation.sh: MN has '$pair', which is not a pair M,N of whole numbers" >&2
        exit 2
    fi
done
list() { # WORDS: join them by commas
    local IFS=,
    echo "$*"
}

align=(base2new --trainers ALIGN)
if [[ ${BETAS:-} ]]; then
    # shellcheck disable=SC2086 # words
    try_all "${align[@]}" "--vary=TRAINER.ALIGN.BETA_FORM=$(list ${FORMS:-convex})" \
        "--vary=TRAINER.ALIGN.BETA=$(list $BETAS)" "$@"
fi
for pair in ${MN:-}; do
    try_all "${align[@]}" "--vary=TRAINER.ALIGN.M=${pair%,*}" \
        "--vary=TRAINER.ALIGN.N=${pair#*,}" "$@"
done
end_with report "$OUTPUT"
