"""Tokenizers unlike CLIP's: of open_clip's multilingual CLIPs, with and without a start token."""

import pytest
import torch
from foreign import (
    NAMES,
    SENTENCES,
    VOCABULARY,
    images,
    learns,
    open_clip_config,
    open_clip_folder,
    write_words,
    zero_shot,
)

from trainers.prompting import (
    TextEncoder,
    UserError,
    build_method,
    load_clip,
    word_embeddings,
    write_sentences,
)

open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

WORLDWIDE = {"hf_tokenizer_name": "o/words", "vocab_size": len(VOCABULARY)}
WORLDWIDE |= {"pool_type": "eos", "eos_id": 1}


KINDS = {"start": {}, "no start": {"sos": False}, "spaces": {"sos": False, "marks": True}}


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    """The folder of a CLIP that reads words, the package's model, and if there is a start token."""
    config = open_clip_config(text=WORLDWIDE, custom_text=True)
    folder, model = open_clip_folder(tmp_path_factory.mktemp("words"), config)
    write_words(folder, **KINDS[request.param])
    return folder, model, request.param == "start"


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
    tokenizer = load_clip(f"open_clip:{folder}").family.tokenizer
    assert tokenizer[2:5] == (0 if start else None, 1, None)


PLAIN = {"end": "a photo of a {}", "middle": "a photo {} of a", "front": "{} a photo of a"}


@pytest.mark.parametrize("position", PLAIN)
def test_a_start_from_words_is_the_plain_sentence(pair, position):
    clip_model = load_clip(f"open_clip:{pair[0]}")
    node = {"CTX_INIT": "a photo of a", "CLASS_TOKEN_POSITION": position}
    method = build_method("CoOp", node, clip_model, NAMES).eval()
    plain = write_sentences(clip_model, [PLAIN[position] + "."], NAMES)
    wanted = TextEncoder(clip_model, plain)()
    torch.testing.assert_close(method.text_features(method.contexts()).h, wanted.h)


def test_gaps_and_words_in_a_sentence(pair):
    """Words after gaps, and those of methods that write their own sentences, follow a space."""
    clip_model = load_clip(f"open_clip:{pair[0]}")
    node = {"N": 2, "N_CTX": 3, "DEPTH": 1, "CTX_INIT": ["a photo of a", "X sea of a"]}
    method = build_method("ALIGN", node, clip_model, NAMES)
    (ids,) = ids_of(pair[0], ["x sea of"])
    rows = clip_model.token_embedding.weight[ids[pair[2] :][1:3]]
    torch.testing.assert_close(method.prompt_learner.ctx[1, 1:], rows)
    assert torch.equal(word_embeddings(clip_model, "sea of ", before="X"), rows)
    gallop = build_method("GalLoP", {"TEMPLATE": "a photo of a {}."}, clip_model, NAMES)
    assert gallop.global_prompt.shape[1] == 4
    ((sentence, *_), *_) = build_method("PLOTPP", {}, clip_model, NAMES).text_encoder.sentences
    assert min(sentence.slots) == sentence.start == pair[2]


@pytest.mark.parametrize(
    "name, node",
    [("CoOp", {"CSC": True, "N_CTX": 2}), ("ALIGN", {"M": 2, "N": 2, "DEPTH": 2}),
     ("TCP", {"INSERT_BLOCK": 1}), ("MMRL", {"REP_LAYERS": [1, 2]}), ("MaPLe", {"PROMPT_DEPTH": 2}),
     ("CoCoOp", {})],
)  # fmt: skip
def test_methods_learn(pair, name, node):
    learns(build_method(name, node, load_clip(f"open_clip:{pair[0]}"), NAMES), images())


def test_a_file_finds_its_tokenizer_beside_it_or_says_what_is_missing(pair, monkeypatch, tmp_path):
    folder, _, _ = pair
    config = open_clip_config(text=WORLDWIDE, custom_text=True)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "words", config)
    weights = folder / "open_clip_model.safetensors"
    assert load_clip(f"open_clip:words/{weights}").context_length == 24
    (tmp_path / "w.safetensors").write_bytes(weights.read_bytes())
    name = f"open_clip:words/{tmp_path / 'w.safetensors'}"
    with pytest.raises(UserError, match="o/words, not here yet: run `hf .* config.json`"):
        load_clip(name)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=f"in '{tmp_path}' cannot be read .*: run `hf download"):
        load_clip(name)
    write_words(tmp_path, end="<unk>")
    with pytest.raises(UserError, match="ends sentences with token 1, its tokenizer with 3"):
        load_clip(name)
