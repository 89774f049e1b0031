#!/usr/bin/env bash
# Choose settings of methods on validation images, one choice for all data sets; test images are not
# used. Prints a table and writes a config file for each method.
#
#   bash scripts/tune.sh [DATASET ...] [KEY=VALUE,VALUE ...] [options] [KEY VALUE ...]
#
# Without KEY=VALUE,VALUE: five rates, or for emoji data sets SGD and Adam with two rates each.
# Environment: TRAINERS ("CoOp ALIGN"), PROTOCOL (the protocol that the settings are for: base2new),
# SOURCE (of a transfer protocol), OUTPUT (output/tune), and the variables in run.sh. Rerun to resume.
# Then: CONFIG=output/tune/base2new/chosen bash scripts/base2new.sh ...
source "$(dirname "${BASH_SOURCE[0]}")/run.sh"

export SHOTS=${SHOTS:-16} OUTPUT=${OUTPUT:-output/tune}
varied=() words=() public=
for word in "$@"; do
    case $word in
    --vary) ;;
    --vary=*) varied+=("$word") ;;
    [[:upper:]]*=*) varied+=("--vary=$word") ;;
    *) words+=("$word") ;;
    esac
done
for word in ${words[@]+"${words[@]}"}; do
    case $word in -* | [[:upper:]]*) break ;; emoji*) ;; *) public=1 ;; esac
done

try() { # --vary=KEY=VALUE,VALUE ...: test every choice of these values on validation images
    try_all "${PROTOCOL:-base2new}" --trainers "${TRAINERS:-CoOp ALIGN}" \
        ${SOURCE:+--source "$SOURCE"} "$@" ${words[@]+"${words[@]}"} TEST.SPLIT val
}

if ((${#varied[@]})); then
    try "${varied[@]}"
elif [[ $public ]]; then
    try --vary=OPTIM.LR=0.0005,0.001,0.0025,0.005,0.01
else
    try --vary=OPTIM.NAME=sgd --vary=OPTIM.LR=0.01,0.1
    try --vary=OPTIM.NAME=adam --vary=OPTIM.LR=0.001,0.01
fi
end_with tune "$OUTPUT"
