"""Writes assets/whurs19_*.safetensors: features that RS-TransCLIP publishes, as files of features.

usage: python assets/whurs19.py FOLDER, with whurs19_clip_*.safetensors and whurs19_protocol.json.
The same input gives the same bytes.
"""

import json
import sys
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from trainers.prompting.storage.features import write_features  # noqa: E402

CLIPS = {"rn50": "RN50", "vit_b_32": "ViT-B/32", "vit_l_14": "ViT-L/14"}


def convert(folder: Path, name: str) -> None:
    """Write the file of one CLIP."""
    protocol = json.loads((folder / "whurs19_protocol.json").read_text())
    source = folder / f"whurs19_clip_{name}.safetensors"
    tensors = load_file(source)
    with safe_open(source, "pt") as file:
        origin = file.metadata()
    header = {
        "classnames": protocol["classnames"],
        "split": {part: protocol["split"][part] for part in ("train", "val", "test")},
        "logit_scale": float(tensors.pop("logit_scale")),
        "normalised": True,
        "text_norm": 10.0,  # of OpenAI's CLIPs, about; the source has normalised features only
        "template": "average",
        "clip": CLIPS[name],
        "dataset": "WHURS19",
        "source": origin["source"],
        "licence": origin["licence"],
        "note": "text/average: the normalised mean over 106 sentences; the split is this project's",
    }
    write_features(
        HERE / f"whurs19_{name}.safetensors",
        {"image": tensors.pop("image_features"), **tensors},
        header,
    )


if __name__ == "__main__":
    for clip in CLIPS:
        convert(Path(sys.argv[1]), clip)
