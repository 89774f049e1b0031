"""Tokenizers of other libraries, found on this machine and translated to `family.Tokenizer`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError, in_short, need
from .family import Tokenizer

FILES = ("tokenizer.json", "tokenizer_config.json")
NEEDED = (*FILES, "config.json")  # without a class or a padding token in the second
WORDS = "a photo"
LENGTH = 16  # of a sentence that shows how one begins and ends
# files from which a tokenizer of Hugging Face can be made: as saved, SentencePiece, BPE, WordPiece
ANY = ("tokenizer.json", "*.model", "vocab.json", "vocab.txt")
READ = ("*token*.json", "config.json", "vocab.*", "merges.txt", "*.model")  # to make one


def open_clip_tokenizer(open_clip: Any, text: Mapping, arch: str, place: Path) -> Any:
    """Return the tokenizer of open_clip's `text_cfg`; nothing is downloaded.

    Its files are looked for in the folder of the weights first.

    Raises:
        UserError: it is not on this machine, or cannot be read.
    """
    kwargs = dict(text.get("tokenizer_kwargs") or {})
    length, name = text.get("context_length", 77), text.get("hf_tokenizer_name")
    if not name:
        return open_clip.tokenizer.SimpleTokenizer(context_length=length, **kwargs)
    folder = tokenizer_folder(name, place)
    remedy = f"run `hf download {name} {' '.join(NEEDED)}`, or put these files next to the weights"
    if folder is None:
        raise UserError(f"open_clip:{arch} needs the tokenizer of {name}, not here yet: {remedy}")
    try:
        return open_clip.tokenizer.HFTokenizer(
            str(folder),
            context_length=length,
            tokenizer_mode=text.get("tokenizer_mode"),
            local_files_only=True,
            trust_remote_code=False,
            **kwargs,
        )
    except Exception as error:  # from several libraries, one of them in Rust
        raise unreadable_tokenizer(error, f"of open_clip:{arch} in '{folder}'", remedy) from error


def unreadable_tokenizer(error: Exception, whose: str, remedy: str) -> UserError:
    """Return the error about a tokenizer that cannot be read, perhaps for want of a package."""
    if isinstance(error, ImportError):
        remedy = "run `pip install sentencepiece protobuf`, which read some tokenizers"
    return UserError(f"The tokenizer {whose} cannot be read ({in_short(error)}): {remedy}")


def tokenizer_folder(name: str, place: Path) -> Path | None:
    """Return the folder of a tokenizer of the hub: that of the weights, else of the hub's cache."""
    return place if any(any(place.glob(form)) for form in ANY) else _cached_folder(name)


def files_of_tokenizer(folder: Path | None) -> list[Path]:
    """Return the files of a folder, if there is one, that make a tokenizer of Hugging Face."""
    return [file for form in READ for file in folder.glob(form)] if folder else []


def _cached_folder(name: str) -> Path | None:
    """Return the folder of a tokenizer in the hub's cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    for file in (*FILES, "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"):
        if isinstance(path := try_to_load_from_cache(name, file), str):
            return Path(os.path.dirname(path))
    return None


def translate(tokenizer: Any, length: int, pads: bool, arch: str) -> Tokenizer:
    """Return a tokenizer of open_clip, or of transformers, as this project reads it.

    Args:
        tokenizer: text -> ids (1, length), with `encode` and `decode`, or the tokenizer of
            transformers inside it as `tokenizer`; or one of transformers itself.
        length: of the context.
        pads: True if the encoder reads the padding.
        arch: name of the model, for the message.

    Raises:
        UserError: it is no tokenizer, or sentences begin or end in a way that is not known.
    """
    if hasattr(tokenizer, "sot_token_id"):  # CLIP's own in open_clip
        sos, eos = tokenizer.sot_token_id, tokenizer.eot_token_id
        return Tokenizer(tokenizer.encode, tokenizer.decode, sos, eos, 0 if pads else None)
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    need(
        hasattr(inner, "encode") and hasattr(inner, "decode"),
        f"The tokenizer of {arch} is {tokenizer!r:.80}: give one of open_clip or transformers, "
        "with `encode` and `decode`",
    )
    clean = getattr(tokenizer, "clean_fn", str)

    def encode(text: str) -> list[int]:
        ids: list[int] = inner.encode(clean(text), add_special_tokens=False)
        return ids

    words, some = encode(WORDS), max(LENGTH, min(length, LENGTH))
    try:
        if inner is tokenizer:
            row = tokenizer(clean(WORDS), padding="max_length", max_length=some).input_ids
        else:
            row = tokenizer([WORDS], some)[0].tolist()
    except Exception as error:  # from several libraries
        raise UserError(
            f"The tokenizer of {arch} does not pad sentences ({in_short(error)}): use that of its "
            f"training, with all its files ({', '.join(NEEDED)})"
        ) from error
    start = row.index(words[0]) if words and words[0] in row else len(row)
    end, *rest = row[start + len(words) :] or [-1]
    if start > 1 or row[start : start + len(words)] != words or len({*rest}) != 1:
        raise UserError(
            f"The tokenizer of {arch} does not write sentences as [start] words end [padding], but "
            f"'{WORDS}' as {row}: use that of its training"
        )
    return Tokenizer(
        encode, inner.decode, row[0] if start else None, end, rest[-1] if pads else None
    )
