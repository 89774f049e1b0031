"""Programs in processes that have imported PyTorch, and nothing of this project.

Each is a fork of one process that a new Python would take seconds to become.
"""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from subprocess import CompletedProcess

NEEDED = (
    "numpy", "PIL.Image", "scipy.optimize", "torch", "torch._dynamo", "torch.utils.tensorboard",
    "torchvision.transforms", "tqdm", "yacs.config",
)  # fmt: skip
# Becomes the program in a fork, and reports the exit code of each.
SERVER = """
import atexit, importlib, json, os, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if not child:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    os._exit(0)
for number, file in enumerate(asked["streams"]):
    os.dup2(os.open(file, os.O_RDWR), number)
os.chdir(asked["cwd"])
os.environ.clear()
os.environ.update(asked["env"])
path = [part for part in asked["env"].get("PYTHONPATH", "").split(os.pathsep) if part]
sys.path[:] = ["", *path, *sys.path[1:]]
sys.argv = ["-c", *asked["argv"]]
try:
    exec(compile(asked["code"], "<string>", "exec"), {"__name__": "__main__"})
    code = 0
except SystemExit as end:
    code = end.code or 0
except BaseException:
    sys.excepthook(*sys.exc_info())
    code = 1
if not isinstance(code, int):
    print(code, file=sys.stderr)
    code = 1
atexit._run_exitfuncs()
sys.stdout.flush(), sys.stderr.flush()
os._exit(code)  # to take PyTorch's modules apart would take a second
"""


@functools.cache
def _server() -> subprocess.Popen:
    """Start the process, which knows no folder of this project."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", SERVER, *NEEDED]
    server = subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True, cwd="/")
    atexit.register(server.communicate)
    return server


def run_fresh(code: str, *argv: str, cwd: Path, env: dict | None = None) -> CompletedProcess:
    """Run `python -c CODE ARGV ...` and return its exit code and what it wrote.

    Args:
        env: its environment, ours if it is None; PYTHONPATH counts.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        for path in (out, err):
            path.touch()
        asked = {"code": code, "argv": argv, "cwd": str(cwd), "env": env or dict(os.environ)}
        asked["streams"] = [os.devnull, str(out), str(err)]
        server = _server()
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        return CompletedProcess(
            argv, int(server.stdout.readline()), out.read_text(), err.read_text()
        )
