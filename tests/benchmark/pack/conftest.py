import json

import pytest
from packing import read
from paths import ROOT

from benchmark.__main__ import main

EARLIER = ROOT / "tests" / "earlier" / "version_0_2"


@pytest.fixture(scope="session")
def earlier(tmp_path_factory):
    """A pack of the runs of version 0.2."""
    path = tmp_path_factory.mktemp("earlier") / "results.zip"
    assert main(["pack", str(EARLIER), "--output", str(path)]) == 0
    return path


@pytest.fixture
def few(earlier):
    """The files of a pack with two runs of a method, on base and on new classes."""
    files = {n: c for n, c in read(earlier).items() if "/CoOp/" in n or n == "manifest.json"}
    manifest = json.loads(files["manifest.json"])
    manifest["runs"] = {n: entry for n, entry in manifest["runs"].items() if "/CoOp/" in n}
    return files | {"manifest.json": json.dumps(manifest).encode()}
