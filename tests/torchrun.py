"""Python files on several ranks of this machine."""

import os
import subprocess
import sys

from paths import ROOT


def torchrun(count: int, *words: str, **variables: str) -> subprocess.CompletedProcess:
    """A Python file and its arguments, as `torchrun --nproc_per_node COUNT` runs it."""
    places = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    variables = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(places), **variables}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    # torchrun looks after its ranks so seldom that what they say themselves comes first
    command += ["--monitor-interval=3", f"--nproc_per_node={count}"]
    return subprocess.run(
        [*command, *words],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
