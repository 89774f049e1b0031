#!/usr/bin/env bash
# Measure a GPU: tests on it, training steps and evaluations, transport solvers. The result is one
# page, docs/gpu/DEVICE.md. It needs no network, data or weights.
#
#   bash scripts/gpu_report.sh
#
# Environment: PARTS ("tests speed solver"), TRAINERS, CLASSES ("50 1000"), PRECISIONS
# ("fp32 amp bf16 fp16"; with PUBLIC no bf16), PUBLIC (a checkout of published code, timed in turn
# with ours), OUTPUT (docs/gpu), DEVICE (cuda; cpu tries the script), PYTHON.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if (($#)); then
    case $1 in -h | --help)
        sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' scripts/gpu_report.sh
        exit 0
        ;;
    esac
    echo "gpu_report.sh: '$1' is no option: settings are environment variables (--help)" >&2
    exit 2
fi
python=${PYTHON:-python} device=${DEVICE:-cuda} output=${OUTPUT:-docs/gpu}
read -ra trainers <<<"${TRAINERS:-ALIGN CoOp MaPLe PLOT PromptSRC MMRL}"
read -ra classes <<<"${CLASSES:-50 1000}"
usual="fp32 amp fp16"
[[ ${PUBLIC:-} ]] || usual="fp32 amp bf16 fp16"
read -ra precisions <<<"${PRECISIONS:-$usual}"

for part in ${PARTS:=tests speed solver}; do
    case $part in tests | speed | solver) ;; *)
        echo "gpu_report.sh: PARTS has '$part' but there are only tests, speed and solver" >&2
        exit 2
        ;;
    esac
done

about=$("$python" - "$device" ${PUBLIC:+"$PUBLIC"} <<'END'
import sys
from pathlib import Path

import torch

from benchmark.measure.case import chip_name
from benchmark.measure.public import check_checkout
from trainers.prompting.record.environment import git_commit
from trainers.prompting import UserError

device, *checkouts = sys.argv[1:]
if device != "cpu" and (device != "cuda" or not torch.cuda.is_available()):
    sys.exit(f"gpu_report.sh: DEVICE is {device}, but PyTorch can use no such GPU: choose cpu")
try:
    for checkout in checkouts:
        check_checkout(Path(checkout))
except UserError as error:
    sys.exit(f"gpu_report.sh: {error}")
print(chip_name(device))
print(f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}, commit {git_commit()[:12]}.")
END
) || exit 2
name=${about%%$'\n'*}
page=$output/$(tr -cs 'a-z0-9\n' _ <<<"${name,,}").md
mkdir -p "$output"
printf '# %s\n\n%s\nMade by `bash scripts/gpu_report.sh`.\n' "$name" "${about#*$'\n'}" >"$page"

worst=0
add() { # TITLE ARGUMENTS: run Python with these, and add what it prints to the page
    local title=$1 code=0
    shift
    echo "gpu_report.sh: $title" >&2
    printf '\n## %s\n\n`python %s`\n\n' "$title" "$*" >>"$page"
    "$python" "$@" >>"$page" || code=$?
    if ((code)); then # the other parts are useful without it
        printf '\n**It ended with code %s.**\n' "$code" >>"$page"
        worst=1
    fi
}

measured=(--device "$device" --format markdown --classes "${classes[@]}")
for part in $PARTS; do
    case $part in
    tests) add Correctness -m pytest -q --tb=line -m "slow or not slow" tests/accelerator ;;
    speed)
        for batch in 4 32; do
            add "Steps of $batch images" -m benchmark measure speed "${measured[@]}" --batch "$batch" \
                --trainers "${trainers[@]}" --precision "${precisions[@]}" ${PUBLIC:+--public "$PUBLIC"}
        done
        ;;
    solver) add "Transport solver" -m benchmark measure solver "${measured[@]}" ;;
    esac
done
echo "$page"
exit "$worst"
