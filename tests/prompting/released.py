"""A small CLIP in files like those of OpenAI's release, and ways to damage a file."""

import copy
import zipfile

import torch

ARCH = {
    "embed_dim": 32, "image_resolution": 32, "vision_layers": 2, "vision_width": 64,
    "vision_patch_size": 16, "context_length": 16, "vocab_size": 60, "transformer_width": 64,
    "transformer_heads": 1, "transformer_layers": 2,
}  # fmt: skip
MARKS = {"input_resolution": 32, "context_length": 16, "vocab_size": 60}


def released(model) -> dict:
    """Return a state dict with the entries of OpenAI's release."""
    return {**model.state_dict(), **{name: torch.tensor(n) for name, n in MARKS.items()}}


def same_weights(one, other) -> bool:
    other = other.state_dict()
    return all(torch.equal(value, other[name]) for name, value in one.state_dict().items())


def archive_of(model, path, half=False):
    """Write a TorchScript archive like OpenAI's, and return the state dict that PyTorch reads."""
    traced = copy.deepcopy(model)
    for name, value in MARKS.items():
        traced.__dict__.pop(name, None)
        traced.register_buffer(name, torch.tensor(value))
    torch.jit.trace(traced, (torch.randn(1, 3, 32, 32), torch.randint(60, (1, 16)))).save(path)
    if half:  # converted after tracing, because CPUs cannot run it
        loaded = torch.jit.load(path)
        for value in loaded.parameters():
            value.data = value.data.half() if value.dim() > 1 else value.data
        loaded.save(path)
    return torch.jit.load(path).state_dict()


def rewritten(path, change=lambda name, content: content, method=zipfile.ZIP_STORED):
    """Rewrite an archive with changed parts; a part that is changed to None is left out."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in parts.items():
            if (content := change(name, content)) is not None:
                archive.writestr(name, content)


class Call:
    """An object that is pickled as a call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def cut(path):
    path.write_bytes(path.read_bytes()[:5000])


def flip(path):
    """Flip a bit of a tensor."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def with_(path, **entries):
    torch.save({**torch.load(path), **entries}, path)
