# Sourced by the scripts of the protocols. `run PROTOCOL ...` calls `python -m benchmark PROTOCOL ...`
# with options from environment variables: SEEDS ("1 2 3"), SHOTS (16), DATA (folder of the data
# sets), OUTPUT (output), CONFIG (name or path of a config file), PLUGINS (modules or files that
# register methods, separated by spaces), BACKBONE (name or file of the CLIP), FEATURES (a file of
# features in place of images), OOD (data sets of other classes), JOBS (runs at a time), SLURM (options
# for sbatch: submit the runs), PYTHON (python).
set -euo pipefail

benchmark() { # COMMAND ...: become `python -m benchmark COMMAND ...`
    local root
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
    exec "${PYTHON:-python}" -m benchmark "$@"
}

run() {
    local protocol=$1 plugin plugins=()
    shift
    for plugin in ${PLUGINS:-}; do
        plugins+=(--plugin "$plugin")
    done
    benchmark "$protocol" \
        ${SEEDS:+--seeds "$SEEDS"} \
        ${SHOTS:+--shots "$SHOTS"} \
        ${DATA:+--root "$DATA"} \
        ${OUTPUT:+--output "$OUTPUT"} \
        ${CONFIG:+--config "$CONFIG"} \
        ${plugins[@]+"${plugins[@]}"} \
        ${BACKBONE:+--backbone "$BACKBONE"} \
        ${FEATURES:+--features "$FEATURES"} \
        ${OOD:+"--ood=$OOD"} \
        ${JOBS:+--jobs "$JOBS"} \
        ${SLURM+"--slurm=$SLURM"} \
        "$@"
}

worst=0 last=()

try_all() { # PROTOCOL ...: do its runs; go on after a failed run, but not after a mistake or Ctrl-C
    last=("$@")
    (run "$@") || worst=$?
    ((worst < 2)) || exit "$worst"
}

jobs_are_open() { # return 0, with a message, if runs in OUTPUT are queued or running
    case $( (benchmark status "$OUTPUT") | tail -n 1) in
    *[0-9]" queued"* | *[0-9]" running"*)
        echo "$(basename "$0"): jobs are open: rerun when they have ended" >&2
        ;;
    *) return 1 ;;
    esac
}

end_with() { # COMMAND ...: call a command about all runs, unless they were only listed or submitted
    case " ${last[*]-} " in *" --dry-run "* | *" --help "* | *" -h "*) exit ;; esac
    ! jobs_are_open || exit "$worst"
    (benchmark "$@") || worst=$?
    exit "$worst"
}
