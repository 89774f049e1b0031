# Sourced by the scripts of the protocols. `run PROTOCOL ...` is `python -m benchmark PROTOCOL ...`
# with options from the environment: SEEDS ("1 2 3"), SHOTS (16), DATA (the folder of the data
# sets), OUTPUT (output), CONFIG, BACKBONE, JOBS, PYTHON (python).
set -euo pipefail

run() {
    local protocol=$1 root
    shift
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
    exec "${PYTHON:-python}" -m benchmark "$protocol" \
        ${SEEDS:+--seeds "$SEEDS"} \
        ${SHOTS:+--shots "$SHOTS"} \
        ${DATA:+--root "$DATA"} \
        ${OUTPUT:+--output "$OUTPUT"} \
        ${CONFIG:+--config "$CONFIG"} \
        ${BACKBONE:+--backbone "$BACKBONE"} \
        ${JOBS:+--jobs "$JOBS"} \
        "$@"
}
