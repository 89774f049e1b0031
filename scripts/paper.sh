#!/usr/bin/env bash
# The tables of the papers from a bare GPU machine: downloads data, compares zero-shot CLIP with the
# published numbers, does the runs, and writes reports. Rerun to resume.
#
#   bash scripts/paper.sh [DATASET ...] [options] [KEY VALUE ...]      (default: ten, base-to-new)
#
# Environment: ALSO ("few_shot transfer": protocols after base-to-new), TRAINERS ("ZeroshotCLIP CoOp
# MaPLe ALIGN"), ANYWAY (1: continue with data or accuracies that are not as published), DATA (data),
# OUTPUT (output/paper), and the other variables in run.sh. Options, and KEY VALUE pairs for train.py:
# see `--help`.
source "$(dirname "${BASH_SOURCE[0]}")/run.sh"

export DATA=${DATA:-data} OUTPUT=${OUTPUT:-output/paper}
datasets=()
while (($#)) && [[ $1 != -* && $1 != [[:upper:]]* ]]; do
    datasets+=("$1")
    shift
done
((${#datasets[@]})) || datasets=(ten)
[[ " $* " != *" --help "* ]] || run base2new --help

protocols=(base2new) public=()
for also in ${ALSO:-}; do
    case $also in
    few_shot) protocols+=(few_shot) ;;
    transfer) protocols+=(cross_dataset domain_generalization) public+=(all imagenet_variants) ;;
    *)
        echo "paper.sh: ALSO has '$also' but there are only few_shot and transfer" >&2
        exit 2
        ;;
    esac
done
for dataset in "${datasets[@]}"; do # all others are here, or the user's
    case $dataset in emoji* | whurs19* | image_folder*) ;; *) public+=("$dataset") ;; esac
done

do_runs() { # ARGUMENTS: call the protocols, one after the other
    local protocol words
    for protocol in "${protocols[@]}"; do
        words=(${TRAINERS:+--trainers "$TRAINERS"} "$@")
        case $protocol in base2new | few_shot) words=("${datasets[@]}" ${words[@]+"${words[@]}"}) ;; esac
        try_all "$protocol" ${words[@]+"${words[@]}"}
    done
}

if [[ " $* " == *" --dry-run "* ]]; then
    do_runs "$@"
    exit
fi
do_runs "$@" --dry-run >/dev/null # finds mistakes before the first download
mkdir -p "$OUTPUT"
if ((${#public[@]})); then
    (benchmark download "${public[@]}" --root "$DATA")
    check=(check-data "${public[@]}" --root "$DATA")
    if [[ ${SLURM+set} || " $*" == *" --slurm"* ]]; then # a login node has no GPU
        echo "paper.sh: on a GPU, call \`python -m benchmark ${check[*]} --zero-shot\`" >&2
    else
        check+=(--zero-shot ${BACKBONE:+--backbone "$BACKBONE"})
    fi
    proof=$OUTPUT/zero_shot.txt said="${check[*]}${ANYWAY:+, anyway}"
    if [[ ! -f $proof || $(head -n 1 "$proof") != "$said" ]]; then # else it has been done
        echo "$said" >"$proof.new"
        if ! (benchmark "${check[@]}") | tee -a "$proof.new" && [[ ! ${ANYWAY:-} ]]; then
            echo "paper.sh: mend that, or continue with ANYWAY=1" >&2
            exit 1
        fi
        mv "$proof.new" "$proof"
    fi
fi
do_runs "$@"
! jobs_are_open || exit "$worst"
(benchmark report "$OUTPUT") | tee "$OUTPUT/report.txt"
(benchmark report "$OUTPUT" --format html) >"$OUTPUT/report.html"
exit "$worst"
