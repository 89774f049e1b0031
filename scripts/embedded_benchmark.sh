#!/usr/bin/env bash
# Reproduce all numbers of docs/older_experiments.md: settings chosen on validation images, then
# base-to-new, few-shot, ablations and transfer on the embedded data sets, then tables and plots.
#
#   bash scripts/embedded_benchmark.sh [options] [KEY VALUE ...]
#
# It takes hours on 2 cores and prints how long each part still needs. Rerun to resume.
#
# Environment: STAGES ("measure tune base2new regularizers few_shot ablation transfer report"),
# DATASETS (the eight with base and new classes), TRAINERS (all methods that learn), SEEDS
# ("1 2 3 4 5 6 7 8 9"; base-to-new and the token level use all of them, the rest the first three),
# and the variables in run.sh.
# Options, and KEY VALUE pairs for train.py, go to each part: see `python -m benchmark base2new -h`.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

STAGES=${STAGES:-measure tune base2new regularizers few_shot ablation transfer report}
DATASETS=${DATASETS:-emoji emoji_blur emoji_fog emoji_hue emoji_dither emoji_motion emoji_night emoji_pixels}
TRAINERS=${TRAINERS:-CoOp CoCoOp VPT IVLP MaPLe UPT PLOT ALIGN KgCoOp ProGrad PromptSRC TCP CoPrompt}
export OUTPUT=${OUTPUT:-output/embedded} SEEDS=${SEEDS:-1 2 3 4 5 6 7 8 9}
OUTPUT=$(realpath -m "$OUTPUT") # the parts change to the repository's folder
read -ra datasets <<<"$DATASETS"
three=$(cut -d " " -f 1-3 <<<"$SEEDS")

stage() { [[ " $STAGES " == *" $1 "* ]]; }

if stage measure; then
    mkdir -p "$OUTPUT"
    (cd "$here/.." && "${PYTHON:-python}" -m assets.builders.measure \
        --weights trainers/prompting/embedded/emoji_clip.safetensors --datasets "${datasets[@]}") |
        tee "$OUTPUT/measure.txt"
fi
if stage tune; then # the chosen settings are in configs/trainers/*/emoji.yaml
    SEEDS=1 TRAINERS=$TRAINERS bash "$here/tune.sh" "${datasets[@]}" "$@"
fi
if stage base2new; then
    TRAINERS="ZeroshotCLIP $TRAINERS" bash "$here/base2new.sh" "${datasets[@]}" "$@"
fi
if stage regularizers; then # ALIGN with the regularizers of KgCoOp and of PromptSRC
    for config in emoji emoji_kgcoop emoji_promptsrc; do
        if [[ $config != emoji ]]; then
            SEEDS=1 CONFIG=$config TRAINERS=ALIGN bash "$here/tune.sh" "${datasets[@]}" "$@"
        fi
        OUTPUT=$OUTPUT/regularizers SEEDS=$three CONFIG=$config TRAINERS=ALIGN \
            bash "$here/base2new.sh" "${datasets[@]}" "$@"
    done
fi
if stage few_shot; then
    SEEDS=$three TRAINERS="ZeroshotCLIP CoOp VPT PLOT UPT MaPLe ALIGN" \
        bash "$here/few_shot.sh" emoji "$@"
fi
if stage ablation; then
    BETAS="0 1" FORMS=additive bash "$here/ablation.sh" "${datasets[@]}" "$@" # the token level
    SEEDS=$three BETAS="0 0.5 1" FORMS="convex additive" MN="1,1 2,2 4,4" \
        PLANS="sinkhorn uniform nearest" bash "$here/ablation.sh" "${datasets[@]}" "$@"
fi
if stage transfer; then
    for protocol in cross_dataset domain_generalization; do
        SEEDS=$three SOURCE=emoji TRAINERS="ZeroshotCLIP CoOp MaPLe ALIGN" \
            bash "$here/$protocol.sh" "$@"
    done
fi
if stage report; then
    cd "$here/.."
    report_of() { "${PYTHON:-python}" -m benchmark report "$@"; }
    report() { report_of "$OUTPUT" "$@"; }
    if compgen -G "$OUTPUT/*/table.json" >/dev/null; then
        report --seeds "$SEEDS" --plots "$OUTPUT/figures"
    fi
    for protocol in base2new few_shot cross_dataset domain_generalization; do
        if [[ -d "$OUTPUT/$protocol" ]]; then
            report --protocol "$protocol" --seeds "$SEEDS" --compare ALIGN
        fi
    done
    if [[ -d "$OUTPUT/regularizers" ]]; then
        report_of "$OUTPUT/regularizers" --seeds "$three"
        report_of "$OUTPUT/regularizers" --seeds "$three" --compare "ALIGN (emoji)"
    fi
    if [[ -d "$OUTPUT/ablation" ]]; then
        report --protocol ablation --seeds "$three"
        for variant in "additive beta = 1" "beta = 0" "M = 4, N = 4" "plan = sinkhorn"; do
            report --protocol ablation --seeds "$three" --compare "$variant"
        done
        report --protocol ablation --seeds "$SEEDS" --compare "additive beta = 1"
    fi
fi
