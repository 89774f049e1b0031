"""Tokenizers of other libraries, found on this machine and translated to `family.Tokenizer`."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import UserError, in_short
from .family import Tokenizer
from .hub import cached_folder

NEEDED = "tokenizer.json tokenizer_config.json config.json"  # the last: for class or padding
WORDS = "a photo"
LENGTH = 16  # of a sentence that shows how one begins and ends
# files from which a tokenizer of Hugging Face can be made: as saved, SentencePiece, BPE, WordPiece
ANY = ("tokenizer.json", "*.model", "vocab.json", "vocab.txt")
READ = ("*token*.json", "config.json", "vocab.*", "merges.txt", "*.model")  # to make one
LOCAL = {"local_files_only": True, "trust_remote_code": False}


def open_clip_tokenizer(text: Mapping, arch: str, place: Path) -> Any:
    """Return the tokenizer of open_clip's `text_cfg`.

    Its files are looked for in the folder of the weights first: `open_clip.get_tokenizer` takes
    them from there or from the hub, where it downloads them.
    """
    from open_clip import tokenizer

    name, more = text.get("hf_tokenizer_name"), text.get("tokenizer_kwargs") or {}
    whose = f"of open_clip:{arch}"
    if not name:
        remedy = "correct tokenizer_kwargs in its config"
        make = (lambda: tokenizer.SimpleTokenizer(**more)) if more else _plain_tokenizer
        return read(make, whose, remedy)
    folder = tokenizer_folder(name, place)
    remedy = f"run `hf download {name} {NEEDED}`, or put these files next to the weights"
    if folder is None:
        raise UserError(f"open_clip:{arch} needs the tokenizer of {name}, not here yet: {remedy}")
    how = {"context_length": text.get("context_length", 77), **LOCAL}
    how["tokenizer_mode"] = text.get("tokenizer_mode")
    whose += f" in '{folder}'"
    return read(lambda: tokenizer.HFTokenizer(str(folder), **{**more, **how}), whose, remedy)


@cache
def _plain_tokenizer() -> Any:
    """Return CLIP's own tokenizer of open_clip: its 48,000 merges take a fifth of a second."""
    from open_clip import tokenizer

    return tokenizer.SimpleTokenizer()


def read(load: Callable[[], Any], whose: str, remedy: str) -> Any:
    """Return what `load` does; a UserError names the tokenizer if it cannot be read."""
    try:
        return load()
    except Exception as error:  # from several libraries, one of them in Rust
        if isinstance(error, ImportError):
            remedy = "run `pip install sentencepiece protobuf`, which read some tokenizers"
        why = in_short(error)
        raise UserError(f"The tokenizer {whose} cannot be read ({why}): {remedy}") from error


def tokenizer_folder(name: str, place: Path) -> Path | None:
    """Return the folder of a tokenizer of the hub: that of the weights, else of the hub's cache."""
    folders = [place, cached_folder(name)]
    return next((x for x in folders if x and any(any(x.glob(form)) for form in ANY)), None)


def files_of_tokenizer(folder: Path | None) -> list[Path]:
    """Return the files of a folder, if there is one, that make a tokenizer of Hugging Face."""
    return [file for form in READ for file in folder.glob(form)] if folder else []


def translate(
    tokenizer: Any, pads: bool, arch: str, clean: Callable[[str], str] = str
) -> Tokenizer:
    """Return a tokenizer of open_clip, or of transformers, as this project reads it.

    Args:
        tokenizer: text -> ids (1, length), with `encode` and `decode`, or the tokenizer of
            transformers inside it as `tokenizer`; or one of transformers itself.
        pads: True if the encoder reads the padding.
        arch: name of the model, for the message.
        clean: what is done with a text first, unless the tokenizer has a `clean_fn`.
    """
    if hasattr(tokenizer, "sot_token_id"):  # CLIP's own in open_clip
        sos, eos = tokenizer.sot_token_id, tokenizer.eot_token_id
        return Tokenizer(tokenizer.encode, tokenizer.decode, sos, eos, 0 if pads else None)
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    clean = getattr(tokenizer, "clean_fn", clean)

    def encode(text: str) -> list[int]:
        ids: list[int] = inner.encode(clean(text), add_special_tokens=False)
        return ids

    words = encode(WORDS)
    if inner is tokenizer:
        row = tokenizer(clean(WORDS), padding="max_length", max_length=LENGTH).input_ids
    else:
        row = tokenizer([WORDS], LENGTH)[0].tolist()
    start = row.index(words[0]) if words and words[0] in row else len(row)
    end, *rest = row[start + len(words) :] or [-1]
    if start > 1 or row[start : start + len(words)] != words or len({*rest}) != 1:
        raise UserError(
            f"The tokenizer of {arch} does not write sentences as [start] words end [padding], but "
            f"'{WORDS}' as {row}: use that of its training"
        )
    sos, pad = row[0] if start else None, rest[-1] if pads else None
    return Tokenizer(encode, inner.decode, sos, end, pad)
