"""Fixture: trained runs of three methods."""

import sys

import pytest
from tiny import run


@pytest.fixture(scope="package")
def runs(tmp_path_factory):
    """Return a folder that holds a run folder for each method, and their images."""
    root, streams = tmp_path_factory.mktemp("runs"), (sys.stdout, sys.stderr)
    for trainer in ("ALIGN", "CoOp", "ZeroshotCLIP"):
        assert run(root, trainer, root / trainer, 1) == 0
        sys.stdout, sys.stderr = streams
    return root
