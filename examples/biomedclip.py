"""A CLIP of your own: BiomedCLIP's architecture, a timm ViT and BERT, with random weights.

Both sides are closed, so methods run that never look inside. Put your trained modules and the
tokenizer of their training in place of those made here: `python -m examples.biomedclip`
"""

import string
import tempfile
from pathlib import Path

import timm
import torch
import transformers
from torch import nn

from trainers.prompting import build_method, from_module

CONFIG = {
    "embed_dim": 512,
    "vision_cfg": {"timm_model_name": "vit_base_patch16_224", "image_size": 224},
    "text_cfg": {"hf_model_name": "BERT", "context_length": 256},
}
SMALL = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4}


class Text(nn.Module):
    """BERT, the state of its first token, and a projection of two layers."""

    def __init__(self, width: int, **sizes: int):
        super().__init__()
        config = transformers.BertConfig(**sizes)
        self.bert = transformers.BertModel(config, add_pooling_layer=False)
        hidden = self.bert.config.hidden_size
        middle = (hidden + width) // 2
        first, second = (nn.Linear(*n, bias=False) for n in ((hidden, middle), (middle, width)))
        self.proj = nn.Sequential(first, nn.GELU(), second)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return features (n, D) of token ids (n, L), padded with 0."""
        states = self.bert(ids, attention_mask=(ids != 0).long()).last_hidden_state
        return self.proj(states[:, 0])


class BiomedCLIP(nn.Module):
    """What `from_module` needs: `visual`, `text` and `logit_scale`, a logarithm."""

    def __init__(self, vit: str, width: int, **bert: int):
        super().__init__()
        self.visual = timm.create_model(vit, num_classes=width, img_size=224)
        self.text = Text(width, **bert)
        self.logit_scale = nn.Parameter(torch.tensor(4.4454))


def tokenizer() -> transformers.BertTokenizerFast:
    """Return BERT's tokenizer of single letters; take that of your model."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *string.ascii_lowercase]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("\n".join(pieces + [f"##{c}" for c in string.ascii_lowercase] + ["."]))
        return transformers.BertTokenizerFast(str(path))


def main(vit: str = "vit_base_patch16_224", **bert: int) -> torch.Tensor:
    """Return the logits (2, 3) of two images under TaskRes."""
    torch.manual_seed(0)
    model = BiomedCLIP(vit, CONFIG["embed_dim"], **bert)
    clip_model = from_module(model, CONFIG, tokenizer(), {"resize_mode": "shortest"}, "BiomedCLIP")
    names = ["adenocarcinoma", "benign tissue", "lymphocytes"]
    method = build_method("TaskRes", {}, clip_model, names)
    return method(torch.randn(2, 3, 224, 224))


if __name__ == "__main__":
    print(main())
