"""Open a page on this machine to classify images that are dropped on it."""

import contextlib
import socket
import sys

from ...errors import UserError, need
from .arguments import from_one
from .load import load_run, run_parser

LOCAL = "127.0.0.1"
OPEN = (
    "Warning: this page has no password, so that whoever reaches this machine can classify images"
)


def main(argv: list[str], prog: str) -> None:
    """Run the command until it is interrupted."""
    parser = run_parser(prog, __doc__ or "", positional=True)
    add = parser.add_argument
    add("--port", type=lambda text: from_one(text, 0), default=8000,
        help="0 takes a free one (default: %(default)s)")  # fmt: skip
    add("--host", default=LOCAL, metavar="ADDRESS",
        help="to reach it from elsewhere, without a password (default: %(default)s)")  # fmt: skip
    add("--device", metavar="NAME", help="as for predict")
    args = parser.parse_args(argv)
    import uvicorn

    config = uvicorn.Config(build_page(args).app(), log_level="warning", server_header=False)
    listening = listen(args.host, args.port)
    if args.host != LOCAL:
        print(OPEN, file=sys.stderr)
    host, port = listening.getsockname()[:2]
    print(f"http://{f'[{host}]' if ':' in host else host}:{port}/ (Ctrl+C ends it)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run([listening])


def build_page(args):
    """Return the page of a run."""
    from ...capabilities.at_test_time import reset
    from ...capabilities.transductive import Transductive
    from ...running.devices import usable_device
    from ..page import Page

    device, run = usable_device(args.device), load_run(args, several=True)
    together = f"{run.method} classifies images together, and a page one by one: use predict"
    need(not isinstance(run.model, Transductive), together)
    reset(run.model.to(device))
    return Page(run)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raises UserError if this is impossible."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        why = f"Port {port} of '{host}' cannot be opened ({error.strerror}): give others"
        raise UserError(why) from None
