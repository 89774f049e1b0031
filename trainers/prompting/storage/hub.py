"""Runs on the Hugging Face hub: `hf://USER/REPO[@REVISION][/FOLDER]`, in its own notation."""

import glob
import os
import re
import sys
from pathlib import Path
from urllib.parse import unquote

from ..errors import UserError, in_short
from .run_record import RECORD, RUN

START = "hf://"
FORM = re.compile(
    rf"({START}([\w.-]+/[\w.-]+)(?:@(refs/(?:pr|convert)/[\w.-]+|[^/@]+))?)((?:/[^/]+)*)/?"
)


def fetch_run(folder: str | os.PathLike[str]) -> Path:
    """Return a run folder on this machine; one on the hub is copied to the hub's cache.

    Only its checkpoints, record and `run.json` are copied: never code. A line on stderr gives the
    commit, and says if it is the last one that the cache has because the hub was not reached.

    Args:
        folder: a folder on this machine, which is returned as it is, or a name on the hub. Its
            revision is a branch (`main` by default), a tag or a commit, with %2F for a slash.
    """
    name = os.fspath(folder)
    if not name.startswith(START):
        return Path(folder)
    match = FORM.fullmatch(name)
    if match is None or ".." in re.split("[/@]", unquote(name)):
        raise UserError(
            f"'{name}' is not a run on the hub: write {START}USER/REPO[@REVISION][/FOLDER]"
        )
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import HfHubHTTPError

    where, repo, revision = match[1], match[2], unquote(match[3] or "main")
    inside = match[4].lstrip("/")
    above = glob.escape(f"{inside}/" if inside else "")
    patterns = [f"{above}*/model*.pth.tar*", above + RECORD, above + RUN]
    unreached = None
    try:  # a pattern's * also matches /, so folders below those of the run are left out
        try:
            HfApi().model_info(repo, revision=revision, timeout=10)
        except HfHubHTTPError:  # an answer
            raise
        except Exception as error:  # from several libraries
            unreached = error
        copy = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=patterns,
            ignore_patterns=[f"{above}*/*/*"],
            local_files_only=unreached is not None,
        )
    except Exception as error:
        raise UserError(
            f"'{name}' cannot be fetched ({in_short(unreached or error)}): check the name, the "
            "connection and, for a private repository, `hf auth login`"
        ) from error
    run = Path(copy) / inside
    source = f"the cache, without the hub ({in_short(unreached)})" if unreached else "the hub"
    print(f"{where}: commit {Path(copy).name}, from {source}", file=sys.stderr)
    return run
