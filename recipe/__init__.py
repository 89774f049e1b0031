"""The parts of train.py: settings, the output folder, the record of a run."""

import trainers  # noqa: F401 (which finds dassl-lite)
