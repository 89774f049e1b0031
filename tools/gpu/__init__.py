"""Measure a GPU in pieces: `scripts/gpu_report.sh` calls `python -m tools.gpu PIECE`.

Each piece writes one JSON file in the output folder, item by item, and continues there when it is
called again. `page` makes a page of all files.
"""
