"""Lists the CLIPs whose weights are on this machine, in the caches of their packages."""

import os
from collections.abc import Iterator
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
    for name, files in (*_of_openai(), *_of_open_clip(), *_on_the_hub()):
        real = {os.path.realpath(file) for file in files}
        if real and not real & seen:
            sizes[name] = sum(map(os.path.getsize, real))
        seen |= real
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def _of_openai() -> Iterator[tuple[str, list[Path]]]:
    for name in openai.RELEASED:
        if os.path.isfile(file := openai.cached_file(name)):
            yield name, [Path(file)]


def _of_open_clip() -> Iterator[tuple[str, list[Path]]]:
    try:
        import open_clip
    except ImportError:
        return
    for arch, tag in open_clip.list_pretrained():
        try:
            yield f"{openclip.PREFIX}{arch}/{tag}", [openclip.find(f"{arch}/{tag}").file]
        except UserError:  # its weights are not here
            continue


def _on_the_hub() -> Iterator[tuple[str, list[Path]]]:
    try:
        from huggingface_hub import constants, scan_cache_dir
    except ImportError:
        return
    if not os.path.isdir(constants.HF_HUB_CACHE):
        return
    for repository in sorted(scan_cache_dir().repos, key=lambda repository: repository.repo_id):
        for revision in repository.revisions:
            files = {file.file_name: file.file_path for file in revision.files}
            weights = [p for n, p in files.items() if n.endswith((".safetensors", ".bin"))]
            if openclip.CONFIG in files:
                yield openclip.HUB + repository.repo_id, weights[:1]
            elif "config.json" in files:
                try:
                    config = read_json(files["config.json"], "")
                except UserError:
                    continue
                if {"text_config", "vision_config"} <= config.keys():
                    yield repository.repo_id, weights
