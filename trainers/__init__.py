"""Trainers of the CoOp family; `trainers.prompting` is the plug-in.

If Dassl is not installed, `dassl-lite/` of this repository is used instead.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

_dassl = find_spec("dassl")
if _dassl is None or _dassl.origin is None:  # none, or a folder that happens to have its name
    sys.path.append(str(Path(__file__).resolve().parents[1] / "dassl-lite"))
