"""A CLIP of your own: BiomedCLIP's architecture, a timm ViT and BERT, with random weights.

Both sides are open, so all methods run. Put your trained modules and the tokenizer of their
training in place of those made here: `python -m examples.biomedclip`
"""

import string
import tempfile
from pathlib import Path

import timm
import torch
import transformers
from torch import nn

from trainers.prompting import OpenText, build_method, from_module

CONFIG = {
    "embed_dim": 512,
    "vision_cfg": {"timm_model_name": "vit_base_patch16_224", "image_size": 224},
    "text_cfg": {"hf_model_name": "BERT", "context_length": 256},
}
SMALL = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4}


class BiomedCLIP(nn.Module):
    """What `from_module` needs: `visual`, `text` and `logit_scale`, a logarithm."""

    def __init__(self, vit: str, width: int, **sizes: int):
        super().__init__()
        self.visual = timm.create_model(vit, num_classes=width, img_size=224)
        config = transformers.BertConfig(**sizes)
        bert, hidden = transformers.BertModel(config, add_pooling_layer=False), config.hidden_size
        first, second = nn.Linear(hidden, 2 * width, bias=False), nn.Linear(2 * width, width)
        self.text = OpenText(bert, [first, nn.GELU(), second], reads="first")
        self.logit_scale = nn.Parameter(torch.tensor(4.4454))


def tokenizer() -> transformers.BertTokenizerFast:
    """Return BERT's tokenizer of single letters; take that of your model."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *string.ascii_lowercase]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("\n".join(pieces + [f"##{c}" for c in string.ascii_lowercase] + ["."]))
        return transformers.BertTokenizerFast(str(path))


def main(vit: str = "vit_base_patch16_224", **sizes: int) -> torch.Tensor:
    """Return the logits (2, 3) of two images under ALIGN."""
    torch.manual_seed(0)
    model = BiomedCLIP(vit, CONFIG["embed_dim"], **sizes)
    clip_model = from_module(model, CONFIG, tokenizer(), {"resize_mode": "shortest"}, "BiomedCLIP")
    names = ["adenocarcinoma", "benign tissue", "lymphocytes"]
    node = {"M": 2, "N": 2, "DEPTH": 2, "CTX_INIT": ""}
    method = build_method("ALIGN", node, clip_model, names).eval()
    return method(torch.randn(2, 3, 224, 224))


if __name__ == "__main__":
    print(main())
