"""Where things are."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
HALF_WRITTEN = "*.pyc.*"  # bytecode that another process is about to rename
