"""Text encoders like BERT, opened: BERT, RoBERTa and XLM-R of transformers.

Their blocks add first and normalise then: x' = ln_1(x + attn(x)), out = ln_2(x' + mlp(x')). Under
the names of OpenAI's class and marked by `post_norm`, methods work on them as on CLIP's. Before the
first block is a LayerNorm, `ln_embed`. After the last one the state is pooled, and passes any
layers: the last matrix is `text_projection`, `ln_final` what precedes it.

Letters: n sentences, L their positions, W the width of the encoder, D of the features.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .assemble import Architecture, clips_norm, set_mlps
from .family import Family, Tokenizer
from .openai_clip import model as openai_model

# classes of transformers; those of ROBERTA number positions from padding_idx + 1
ROBERTA = ("RobertaModel", "XLMRobertaModel", "CamembertModel", "AltRobertaModel")
KNOWN = ("BertModel", "ChineseCLIPTextModel", *ROBERTA)
POOLERS = {"ClsPooler": "first", "ClsLastHiddenStatePooler": "first", "MeanPooler": "mean"}
QKV = ("query", "key", "value")


class OpenText(nn.Module):
    """An open text encoder, whose modules a CLIP takes over under the same names.

    Args:
        bert: an encoder of transformers whose class is in `KNOWN`.
        end: the layers that make a feature of the pooled state.
        reads: what is pooled, as in `Family.reads`: `first`, the state of the first token, or
            `mean`, that of all.

    Attributes:
        length: the most positions of a sentence.

    Examples:
        >>> from transformers import BertConfig, BertModel
        >>> sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> bert = BertModel(BertConfig(**sizes, intermediate_size=64), add_pooling_layer=False)
        >>> OpenText(bert, [nn.Linear(32, 16)])(torch.tensor([[101, 7, 102]])).shape
        torch.Size([1, 16])
    """

    def __init__(self, bert: Any, end: Iterable[nn.Module], reads: str = "first"):
        super().__init__()
        if why := _unlike(bert):
            raise UserError(f"{type(bert).__name__} cannot be opened: {why}. Leave it closed")
        e, self.reads, self.pad = bert.embeddings, reads, bert.config.pad_token_id
        offset = e.padding_idx + 1 if type(bert).__name__ in ROBERTA else 0
        kind = e.token_type_embeddings.weight.detach()[0]
        positions = e.position_embeddings.weight.detach()[offset:] + kind
        self.token_embedding = e.word_embeddings
        self.positional_embedding = nn.Parameter(positions)
        self.length, W = positions.shape
        self.ln_embed = clips_norm(e.LayerNorm)
        layers = getattr(bert.encoder, "layer", None)
        layers = bert.encoder.layers if layers is None else layers  # of AltCLIP
        self.transformer = _transformer(layers)
        after: list[Any] = [x for x in end if not isinstance(x, nn.Identity | nn.Dropout)]
        last = after.pop() if after and isinstance(after[-1], nn.Linear) else None
        self.ln_final = nn.Sequential(*map(clips_norm, after))
        matrix = torch.eye(W, device=positions.device) if last is None else last.weight.detach().T
        self.text_projection = nn.Parameter(matrix)
        self.text_bias: nn.Parameter | None = None
        if last is not None and last.bias is not None:
            self.text_bias = nn.Parameter(last.bias.detach())

    def forward(self, ids: Tensor) -> Tensor:
        """Return features (n, D) of sentences (n, L) without padding."""
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        x = self.transformer(self.ln_embed(x).transpose(0, 1))  # (L, n, W)
        x = self.ln_final(x.mean(0) if self.reads == "mean" else x[0]) @ self.text_projection
        return x if self.text_bias is None else x + self.text_bias

    def unfit(self, tokenizer: Tokenizer) -> str:
        """Return why sentences of a tokenizer cannot be read here, without padding; or nothing."""
        if tokenizer.pad != self.pad:
            return f"its encoder skips token {self.pad}, its tokenizer pads with {tokenizer.pad}"
        if tokenizer.pad == tokenizer.eos:
            return f"token {self.pad} is its padding and its end of a sentence, too"
        return "" if tokenizer.sos is not None else "its tokenizer writes no start token"

    def family(self, family: Family) -> Family:
        """Return a family as this encoder reads its sentences."""
        words = family.tokenizer._replace(pad=None)
        return family._replace(tokenizer=words, reads=self.reads, causal=False)


class PostNormBlock(openai_model.ResidualAttentionBlock):  # type: ignore[misc, name-defined]
    """A block that normalises sums."""

    post_norm = True

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (L, n, W) of a block."""
        x = self.ln_1(x + self.attention(x))
        out: Tensor = self.ln_2(x + self.mlp(x))
        return out


def _transformer(layers: Sequence[Any]) -> nn.Module:
    """Return BERT's blocks under the names of OpenAI's class."""
    first, eps = layers[0], layers[0].output.LayerNorm.eps
    hidden, W = first.intermediate.dense.weight.shape
    heads, act = first.attention.self.num_attention_heads, first.intermediate.intermediate_act_fn
    with torch.device("meta"):
        built = openai_model.Transformer(W, 0, heads)
        built.resblocks.extend(PostNormBlock(W, heads) for _ in layers)
        set_mlps(built, Architecture(W, len(layers), heads, hidden, lambda: act, eps))
    state = {}
    for i, layer in enumerate(layers):
        parts = {
            "ln_1.": layer.attention.output.LayerNorm,
            "attn.out_proj.": layer.attention.output.dense,
            "ln_2.": layer.output.LayerNorm,
            "mlp.c_fc.": layer.intermediate.dense,
            "mlp.c_proj.": layer.output.dense,
        }
        for kind in ("weight", "bias"):
            rows = [getattr(getattr(layer.attention.self, x), kind).detach() for x in QKV]
            state[f"resblocks.{i}.attn.in_proj_{kind}"] = torch.cat(rows)
            for name, part in parts.items():
                state[f"resblocks.{i}.{name}{kind}"] = getattr(part, kind).detach()
    built.load_state_dict(state, assign=True)
    return built


def open_hf_text(text: Any) -> OpenText | None:
    """Return open_clip's `HFTextEncoder` opened, or None if its blocks or pooler are others."""
    bert, pooler = getattr(text, "transformer", None), type(getattr(text, "pooler", None)).__name__
    if pooler not in POOLERS or _unlike(bert):
        return None
    own = getattr(bert, "pooler", None) if pooler == "ClsPooler" else None
    before = [] if own is None or not text.pooler.use_pooler_output else [own.dense, own.activation]
    proj = text.proj if isinstance(text.proj, nn.Sequential) else [text.proj]
    return OpenText(bert, [*before, *proj], POOLERS[pooler])


def open_dual_text(model: Any) -> OpenText | None:
    """Return the text encoder of a dual encoder of transformers opened, or None."""
    text: Any = getattr(model, "text_model", None)
    kind = type(model).__name__
    if kind == "ChineseCLIPModel" and not _unlike(text):
        return OpenText(text, [model.text_projection])
    if kind == "AltCLIPModel" and not _unlike(text.roberta):
        return OpenText(text.roberta, [text.pre_LN, text.transformation, model.text_projection])
    return None


def _unlike(bert: Any) -> str:
    """Return why an encoder is not one of BERT's kind; empty if it is."""
    if type(bert).__name__ not in KNOWN:
        return f"only {', '.join(KNOWN)} of transformers have blocks that are known here"
    config = bert.config
    absolute = getattr(config, "position_embedding_type", None) in (None, "absolute")
    return (
        ""
        if absolute and not getattr(config, "is_decoder", False)
        else ("its positions are relative, or see only those before")
    )
