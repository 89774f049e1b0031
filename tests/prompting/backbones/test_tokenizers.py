"""Tokenizers unlike CLIP's: of open_clip's multilingual CLIPs, with and without a start token."""

import pytest
import torch
from foreign import (
    NAMES,
    SENTENCES,
    VOCABULARY,
    images,
    open_clip_config,
    open_clip_folder,
    write_words,
    zero_shot,
)

from trainers.prompting import UserError, build_method, load_clip
from trainers.prompting.backbones import family_of
from trainers.prompting.encoders.sentences import write_sentences
from trainers.prompting.encoders.text import TextEncoder

open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

WORLDWIDE = {"hf_tokenizer_name": "o/words", "vocab_size": len(VOCABULARY)}
WORLDWIDE |= {"pool_type": "eos", "eos_id": 1}


@pytest.fixture(scope="module", params=[True, False], ids=["start", "no start"])
def pair(request, tmp_path_factory):
    """The folder of a CLIP that reads words, and the package's model."""
    torch.manual_seed(0)
    config = open_clip_config(text=WORLDWIDE, custom_text=True)
    folder, model = open_clip_folder(tmp_path_factory.mktemp("words"), config)
    write_words(folder, request.param)
    return folder, model, request.param


def ids_of(folder, sentences):
    return open_clip.tokenizer.HFTokenizer(str(folder), context_length=24)(sentences)


def test_logits_are_those_of_the_package(pair):
    folder, model, start = pair
    x = images()
    with torch.no_grad():
        z, h = model.encode_image(x, True), model.encode_text(ids_of(folder, SENTENCES), True)
    torch.testing.assert_close(
        zero_shot(f"open_clip:{folder}")(x), model.logit_scale.exp() * z @ h.T, atol=1e-5, rtol=1e-5
    )
    tokenizer = family_of(load_clip(f"open_clip:{folder}")).tokenizer
    assert tokenizer[2:] == (0 if start else None, 1, None)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_words_as_contexts_are_the_plain_sentence(pair, position):
    clip_model = load_clip(f"open_clip:{pair[0]}")
    words = [VOCABULARY.index(word) for word in ["a", "photo", "of", "a"]]
    rows = write_sentences(clip_model, ["a photo of a {}"], NAMES, 4, position)
    found = TextEncoder(clip_model, rows)([clip_model.token_embedding.weight[words][None]])
    plain = {"end": "a photo of a {}", "middle": "a photo {} of a", "front": "{} a photo of a"}
    wanted = TextEncoder(clip_model, write_sentences(clip_model, [plain[position]], NAMES))()
    torch.testing.assert_close(found.h, wanted.h, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "name, node",
    [("CoOp", {"CSC": True, "N_CTX": 2}), ("ALIGN", {"M": 2, "N": 2, "DEPTH": 2}),
     ("TCP", {"INSERT_BLOCK": 1}), ("MMRL", {"REP_LAYERS": [1, 2]}), ("MaPLe", {"PROMPT_DEPTH": 2}),
     ("CoCoOp", {})],
)  # fmt: skip
def test_methods_learn(pair, name, node):
    method = build_method(name, node, load_clip(f"open_clip:{pair[0]}"), NAMES).train()
    method.backward(method.losses(images(), torch.tensor([0, 1, 2, 0])))
    for own, p in method.learned().items():
        assert p.grad is not None and p.grad.isfinite().all(), own


def test_a_file_finds_its_tokenizer_beside_it_or_says_what_is_missing(pair, monkeypatch, tmp_path):
    folder, _, _ = pair
    config = open_clip_config(text=WORLDWIDE, custom_text=True)
    monkeypatch.setattr(open_clip, "list_models", lambda: ["words"])
    monkeypatch.setattr(open_clip, "get_model_config", lambda arch: config)
    weights = folder / "open_clip_model.safetensors"
    assert load_clip(f"open_clip:words/{weights}").context_length == 24
    (tmp_path / "w.safetensors").write_bytes(weights.read_bytes())
    name = f"open_clip:words/{tmp_path / 'w.safetensors'}"
    with pytest.raises(UserError, match="o/words, not here yet: run `hf download o/words token"):
        load_clip(name)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=f"in '{tmp_path}' cannot be read .*: run `hf download"):
        load_clip(name)
    write_words(tmp_path, end="<unk>")
    with pytest.raises(UserError, match="ends sentences with token 1, its tokenizer with 3"):
        load_clip(name)
