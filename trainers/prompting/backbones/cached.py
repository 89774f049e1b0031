"""Lists the CLIPs whose weights are on this machine, in the caches of their packages."""

import os
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from ..errors import UserError
from ..storage.files import read_json
from . import openai, openclip


def cached_clips() -> dict[str, int]:
    """Return the names of CLIPs in the caches, the largest first, with the bytes of their weights.

    Those of OpenAI, of open_clip's tags, and of Hugging Face's hub, whose repositories tell by
    their configs that they are a CLIP; each file counts once.
    """
    sizes: dict[str, int] = {}
    seen: set[str] = set()
    for name, files in (*_of_packages(), *_on_the_hub()):
        real = {os.path.realpath(file) for file in files}
        if real and not real & seen:
            sizes[name] = sum(map(os.path.getsize, real))
        seen |= real
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def _of_packages() -> Iterator[tuple[str, list[Path]]]:
    for name in openai.RELEASED:
        if (file := Path(openai.cached_file(name))).is_file():
            yield name, [file]
    if find_spec("open_clip"):
        import open_clip

        for tag in map("/".join, open_clip.list_pretrained()):
            with suppress(UserError):  # its weights are not here
                yield openclip.PREFIX + tag, [openclip.find(tag).file]


def _on_the_hub() -> Iterator[tuple[str, list[Path]]]:
    if not find_spec("huggingface_hub"):
        return
    from huggingface_hub import constants, scan_cache_dir

    if not os.path.isdir(constants.HF_HUB_CACHE):
        return
    for repository in sorted(scan_cache_dir().repos, key=lambda repository: repository.repo_id):
        for revision in repository.revisions:
            files = {file.file_name: file.file_path for file in revision.files}
            weights = [p for n, p in files.items() if n.endswith((".safetensors", ".bin"))]
            if openclip.CONFIG in files:
                yield openclip.HUB + repository.repo_id, weights[:1]
            elif "config.json" in files:
                with suppress(UserError):
                    if {"text_config", "vision_config"} <= {*read_json(files["config.json"], "")}:
                        yield repository.repo_id, weights
