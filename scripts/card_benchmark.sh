#!/usr/bin/env bash
# The benchmark of docs/benchmark_card.md, in its order: three CLIPs, settings, the main table,
# transport plans, the other two CLIPs, few-shot, the report.
#
#   bash scripts/card_benchmark.sh [options] [KEY VALUE ...]
#
# It takes about ten hours on 2 cores. Rerun to resume; to stop after a time:
#   timeout -s INT 115m bash scripts/card_benchmark.sh
#
# Environment: STAGES ("pretrain tune main transport clips few_shot report"), TRAINERS (all methods that
# learn), SEEDS ("1 2 3 4 5"), PACKAGES (the folder of the npm packages: npm), OUTPUT (output/card),
# and JOBS, DATA and PYTHON as in run.sh. Options go to each part: see `python -m benchmark base2new -h`.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

STAGES=${STAGES:-pretrain tune main transport clips few_shot report}
TRAINERS=${TRAINERS:-CoOp CoCoOp VPT IVLP MaPLe UPT PLOT KgCoOp ProGrad PromptSRC TCP CoPrompt MultiModalAdapter CLIPLoRA MMRL GalLoP ALIGN}
PRIMARY=${PRIMARY:-CoOp MaPLe PLOT CoPrompt MultiModalAdapter CLIPLoRA ALIGN} # and zero-shot CLIP
SEEDS=${SEEDS:-1 2 3 4 5}
here_from() { realpath -m --relative-to "$here/.." "$1"; } # all runs in the repository
card=$(here_from "${OUTPUT:-$here/../output/card}")
PACKAGES=$(here_from "${PACKAGES:-npm}")
split_a="emoji_openmoji_a emoji_fluent_a emoji_emojione_a emoji_symbola_a"
both="$split_a emoji_openmoji_b emoji_fluent_b emoji_emojione_b emoji_symbola_b"
three=$(cut -d " " -f 1-3 <<<"$SEEDS")
chosen=$card/clip1/tune/base2new/chosen
words=$*
cd "$here/.."

stage() { [[ " $STAGES " == *" $1 "* ]]; }
py() { "${PYTHON:-python}" "$@"; }
dry() { [[ " $words " == *" --dry-run "* ]]; }
clip() { # the weights of a CLIP; a dry run has none
    if dry; then echo emoji; else echo "$card/clip$1/clip.safetensors"; fi
}

steps() { # of a training with 4 shots of half of the classes: half as many as with 16 until now
    case $1 in
    CoOp | PLOT | KgCoOp | ProGrad | TCP) echo 105 ;;     # batches of 32 images
    CoCoOp) echo 280 ;;                                    # of 4
    CLAP) echo 300 ;;                                      # the whole training set
    *) echo 140 ;;                                         # of 8
    esac
}
own_keys() { # OPTIM.STEPS, and where PromptSRC's mean over the epochs lies among 28 in place of 10
    echo "OPTIM.STEPS $(steps "$1")"
    if [[ $1 == PromptSRC ]]; then
        echo "OPTIM.MAX_EPOCH 28 TRAINER.PROMPTSRC.GPA_MEAN 17 TRAINER.PROMPTSRC.GPA_STD 6"
    fi
}

tune() { # METHOD PROTOCOL DATASETS ...: six settings, more rates while the best is at an edge, two finalists
    local method=$1 protocol=$2 datasets=$3 keys space record answer
    shift 3
    read -ra keys <<<"$(own_keys "$method" | tr '\n' ' ')"
    space=$card/clip1/tune/space_$method.yaml
    record=$card/clip1/tune/$protocol/chosen/$method/emoji_tuned.json
    try() {
        SHOTS=4 SEEDS=$1 SPACE=$2 TRAINERS=$method PROTOCOL=$protocol CONFIG=emoji \
            OUTPUT=$card/clip1 BACKBONE=$(clip 1) bash "$here/tune.sh" $datasets "${keys[@]}" "${@:3}"
    }
    try 1 configs/tune/card.yaml "$@"
    if dry; then return; fi
    while true; do
        answer=$(py -m tools.card wider "$record" "$space")
        if [[ $answer == done ]]; then break; fi
        try 1 "$space" "$@"
    done
    cp "$record" "${record%.json}_one_seed.json" # all that was tried
    py -m tools.card finalists "$record" "$space"
    try "$three" "$space" "$@"
}

base2new() { # CLIP SHOTS SEEDS DATASETS TRAINERS ...: with the chosen settings
    local number=$1 shots=$2 seeds=$3 datasets=$4 trainers=$5 config=$chosen
    shift 5
    if dry; then config=emoji; fi # nothing is chosen yet
    SHOTS=$shots SEEDS=$seeds TRAINERS=$trainers CONFIG=$config OUTPUT=$card/clip$number \
        BACKBONE=$(clip "$number") bash "$here/base2new.sh" $datasets "$@"
}

variants() { # CLIP SHOTS SEEDS DATASETS ...: ALIGN with beta 0, a uniform plan, one prompt a side
    local number=$1 shots=$2 seeds=$3 datasets=$4 variant
    shift 4
    if dry; then return; fi
    py -m tools.card variants "$chosen/ALIGN/emoji_tuned.yaml" "$card/clip1/tune/variants"
    for variant in beta0 uniform one_prompt; do
        SHOTS=$shots SEEDS=$seeds TRAINERS=ALIGN CONFIG=$card/clip1/tune/variants/$variant.yaml \
            OUTPUT=$card/clip$number BACKBONE=$(clip "$number") \
            bash "$here/base2new.sh" $datasets "$@"
    done
}

compared() { # the best family of plans and its uniform plan
    py -m tools.card families "$card/transport/tune/base2new/chosen/ALIGN/emoji_tuned_tuned.json" \
        "$card/transport/families"
}
plan() { # CLIP SEEDS DATASETS FAMILY ...: ALIGN with the best setting of a family of plans
    local number=$1 seeds=$2 datasets=$3 family=$4
    shift 4
    SHOTS=4 SEEDS=$seeds TRAINERS=ALIGN CONFIG=$card/transport/families/$family.yaml \
        OUTPUT=$card/transport/clip$number BACKBONE=$(clip "$number") \
        bash "$here/base2new.sh" $datasets "$@"
}

if stage pretrain && ! dry; then
    mkdir -p "$card"
    if [[ ! -f $card/pictures.npz ]]; then
        py -m assets.builders.pictures --packages "$PACKAGES" \
            --output "$card/pictures.npz" --withhold assets/emoji_artists.zip
    fi
    for seed in 1 2 3; do # continues from its checkpoint; nothing is left to do when it is complete
        if [[ -f $card/clip$seed/clip.safetensors && ! -f $card/clip$seed/checkpoint.pt ]]; then
            continue # trained elsewhere, as the embedded CLIP
        fi
        py -m assets.builders.pretrain --data "$card/pictures.npz" \
            --output "$card/clip$seed" --seed "$seed" --steps "${STEPS:-3178}"
    done
fi
if stage tune; then # on the shipped CLIP, for all three
    for method in $TRAINERS; do tune "$method" base2new "$split_a" "$@"; done
    if ! dry; then
        mkdir -p "$chosen/ZeroshotCLIP"
        cp configs/trainers/ZeroshotCLIP/emoji.yaml "$chosen/ZeroshotCLIP/emoji_tuned.yaml"
    fi
fi
if stage main; then
    base2new 1 4 "$SEEDS" "$both" "ZeroshotCLIP $PRIMARY" "$@"
    variants 1 4 "$SEEDS" "$both" "$@"
    base2new 1 4 "$three" "$both" "$TRAINERS" "$@"
    if ! dry; then
        py -m assets.builders.measure --weights "$(clip 1)" --archive assets/emoji_artists.zip \
            --datasets $both --shots 4 --choose-on base --seeds $three | tee "$card/layer_norms.txt"
    fi
fi
if stage transport && ! dry; then
    mkdir -p "$card/transport"
    py -m tools.card plans "$chosen/ALIGN/emoji_tuned.yaml" "$card/transport/space.yaml"
    SHOTS=4 SEEDS=$(cut -d " " -f 1,2 <<<"$SEEDS") SPACE=$card/transport/space.yaml TRAINERS=ALIGN \
        CONFIG=$chosen/ALIGN/emoji_tuned.yaml OUTPUT=$card/transport BACKBONE=$(clip 1) \
        bash "$here/tune.sh" $split_a "$@"
    both_plans=$(compared)
    for family in "$card"/transport/families/*.yaml; do
        plan 1 "$three" "$split_a" "$(basename "$family" .yaml)" "$@"
    done
    for family in $both_plans; do plan 1 "$SEEDS" "$both" "$family" "$@"; done
fi
if stage clips; then
    for number in 2 3; do
        base2new "$number" 4 "$three" "$split_a" "ZeroshotCLIP $PRIMARY" "$@"
        variants "$number" 4 "$three" "$split_a" "$@"
        if [[ -d $card/transport/families ]] && ! dry; then
            for family in $(compared); do plan "$number" "$three" "$split_a" "$family" "$@"; done
        fi
    done
fi
if stage few_shot; then # all classes: the linear probe is CLAP without its constraint
    tune CLAP few_shot "$split_a" TRAINER.ADAPTER.CONSTRAINT none "$@"
    for method in ZeroshotCLIP CoOp ALIGN CLAP; do
        config=$chosen more=()
        if [[ $method == CLAP ]]; then
            config=$card/clip1/tune/few_shot/chosen more=(TRAINER.ADAPTER.CONSTRAINT none)
        elif [[ $method != ZeroshotCLIP ]]; then # twice the classes, twice the steps
            more=(OPTIM.STEPS $((2 * $(steps "$method"))))
        fi
        if dry; then config=emoji; fi
        SHOTS=4 SEEDS=$three TRAINERS=$method CONFIG=$config OUTPUT=$card/clip1 \
            BACKBONE=$(clip 1) bash "$here/few_shot.sh" $split_a ${more[@]+"${more[@]}"} "$@"
    done
fi
if stage report && ! dry; then
    report() { # FOLDER SEEDS VARIANT: the tables, and ALIGN's variant minus each other
        py -m benchmark report "$1" --protocol base2new --seeds "$2" --metrics
        for metric in accuracy joint_accuracy; do
            py -m benchmark report "$1" --protocol base2new --seeds "$2" \
                --metric "$metric" --compare "ALIGN ($3@clip)"
        done
    }
    for number in 1 2 3; do
        folder=$card/clip$number
        if [[ -d $folder/base2new ]]; then
            report "$folder" "$three" emoji_tuned
            if [[ $number == 1 ]]; then report "$folder" "$SEEDS" emoji_tuned; fi
            py -m benchmark pack "$folder" --output "$folder.zip"
        fi
        plans=$card/transport/clip$number
        if [[ -d $plans/base2new ]]; then
            for uniform in plan_uniform plan_values_uniform; do # the second and third CLIP have one
                if compgen -G "$plans/base2new/*/*/*/ALIGN/$uniform@clip" >/dev/null; then
                    report "$plans" "$SEEDS" $uniform
                fi
            done
            py -m benchmark pack "$plans" --output "$card/transport$number.zip"
        fi
    done
    if [[ -d $card/clip1/few_shot ]]; then
        py -m benchmark report "$card/clip1" --protocol few_shot --seeds "$three"
    fi
fi
