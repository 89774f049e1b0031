"""Sentences about classes: their files and rules, and the methods that start from them."""

import json

import pytest
import torch
import torch.nn.functional as F
from golden_files import read
from paths import GOLDEN

from trainers.prompting import UserError, build_method
from trainers.prompting.backbones.openai import clip
from trainers.prompting.encoders.class_text import RULES, SCORES
from trainers.prompting.encoders.descriptions import Asked, describe, match
from trainers.prompting.method import METHODS

GIVEN = read(GOLDEN / "descriptions_three_rules.safetensors")
NAMES = GIVEN.meta["classnames"]


def zero_shot(clip_model, source, rule):
    asked = Asked(source, rule)
    return build_method("ZeroshotCLIP", {}, clip_model, NAMES, sentences=asked).eval()


def near(found, expected, limit=1e-5):
    return float((found - expected).detach().abs().max()) < limit


@pytest.mark.parametrize("rule", SCORES)
@pytest.mark.parametrize("kind", ["cupl", "dclip"])
def test_rules_are_those_of_the_published_code(tiny_clip, kind, rule):
    method = zero_shot(tiny_clip, GIVEN.meta["sentences"][kind], rule)
    logits = method(GIVEN.tensors["image"])
    assert near(logits, GIVEN.tensors[f"{kind}/{rule}/logits"], 1e-5)
    if kind == "dclip" and rule == "score_mean":
        assert near(logits / method.logit_scale, GIVEN.tensors["dclip/scores"])


# ------------------------------------------------------------------ files as people have them

PUBLIC = {  # each in the form of a public file
    "CuPL": {
        "great pyrenees": ["A great pyrenees is big."],
        "wheaten terrier": ["Silky.", "Soft."],
    },
    "DCLIP": {"Great Pyrenees": ["white fur"], "Wheaten terrier": []},
    "TAP": {
        "Great_Pyrenees": {"Size": ["big", "tall"], "Fur": ["white"]},
        "Wheaten_Terrier": {"Fur": ["silky"]},
    },
    "AWT": {"great_pyrenees": ["big and white"], "*": ["a {}.", "one {}"]},
}
BARE = "only the name where a list or text is empty"
FOUND = {
    "CuPL": ([1, 2], "2 of 2 classes by name"),
    "DCLIP": ([1, 0], f"2 of 2 classes by case, {BARE} (wheaten terrier)"),
    "TAP": ([3, 1], "2 of 2 classes by case"),
    "AWT": ([1, 2], "1 of 2 classes by name, 1 by '*'"),
}


@pytest.mark.parametrize("form", PUBLIC)
def test_names_of_public_files_are_matched(form):
    lists, how = match(PUBLIC[form], ["great pyrenees", "wheaten terrier"], "it")
    assert ([len(own) for own in lists], how) == FOUND[form]


def test_one_line_says_what_was_matched_in_a_file(tiny_clip, tmp_path):
    path = tmp_path / "pets.json"
    about = {"Great-Pyrenees": ["white {}", "big"], "cat_fish": []}
    path.write_text(json.dumps(about), "utf-8-sig")
    text = describe(Asked(str(path)), ["great pyrenees", "cat fish"], tiny_clip)
    assert (
        text.note
        == f"'{path}': 1 of 2 classes by name, 1 by case, {BARE} (cat fish); 1 to 2 for each"
    )
    assert text.lists == [["white great pyrenees", "big"], ["cat fish"]]
    bare = describe(Asked({"*": ["blue"]}), ["sea", "sky"], tiny_clip)
    assert "none with its name (write whole sentences)" in bare.note
    one = describe(Asked("a {}. | the {}"), ["sea"], tiny_clip)
    assert (one.rows, one.note) == (["a {}.", "the {}"], "'a {}. | the {}', 2 for each class")


HPT = {"sea": [{"Entities": ["water"], "Attributes": ["blue"]}], "*": ["a {}."]}
REFUSED = {
    "a class": (Asked({"sea": ["blue"]}), "has no list of sentences for the class 'forest'"),
    "structures": (Asked(HPT), "has structures, not sentences, for the class 'sea'"),
    "no list": (Asked({"*": "a {}."}), "has no list of sentences for the class 'forest'"),
    "two lists": (
        Asked({"Sea": ["a"], "SEA": ["b"], "*": ["c"]}), "has Sea and SEA for the class 'sea'",
    ),
    "no file": (Asked("clip8"), "no list or .json file 'clip8': did you mean 'clip80'"),
    "no JSON": (Asked("none.json"), "'none.json' cannot be read .* DATASET.SENTENCES needs one"),
    "other file": (Asked(__file__), "no list or .json file '.*test_descriptions.py': choose"),
    "no gap": (Asked("a {}. | the sea"), r"the template \['the sea'\]: write one {} in it"),
    "two gaps": (Asked("a {}, the {}."), r"the template \['a {}, the {}.'\]: write one {}"),
    "a rule": (Asked("clip7", "median"), "is median, but ZeroshotCLIP normalises h0, or compares"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_sentence_about_each_class_is_refused(tiny_clip, case):
    asked, part = REFUSED[case]
    with pytest.raises(UserError, match=part) as error:
        build_method("ZeroshotCLIP", {}, tiny_clip, ["forest", "sea"], sentences=asked)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------ the methods

SENTENCES = {name: [f"a {name}.", f"many {name}s"][: 1 + i % 2] for i, name in enumerate(NAMES)}
MANY = {
    "ZeroshotCLIP": {}, "CLIPAdapter": {}, "TaskRes": {}, "CLAP": {}, "TDA": {}, "MTA": {},
    "ZERO": {}, "TPS": {}, "LPPlusPlus": {}, "ProLIP": {"SIDE": "text"}, "TransCLIP": {}, "GDA": {},
    "StatA": {}, "CrossModal": {}, "BoostAdapter": {},
}  # fmt: skip


@pytest.mark.parametrize("name", MANY)
def test_methods_with_fixed_text_start_from_the_mean_of_given_sentences(tiny_clip, name):
    texts = [text.replace("_", " ") for own in SENTENCES.values() for text in own]
    t = tiny_clip.encode_text(clip.tokenize(texts)).split([1, 2] * 3)
    asked = Asked(SENTENCES, "raw_mean")
    method = build_method(name, MANY[name], tiny_clip, NAMES, "ImageNet", sentences=asked)
    means = torch.stack([own.mean(0) for own in t]).float()
    assert near(method.text().h[0], F.normalize(means, dim=-1))
    if name in ("TaskRes", "CLAP"):  # they start from what is not normalised
        assert near(method.text().raw[0], means)
        asked = asked._replace(rule="normalised_mean")
        raw = build_method(name, {}, tiny_clip, NAMES, sentences=asked).text().raw[0]
        lengths = torch.stack([own.norm(dim=-1).mean() for own in t])
        assert (raw.norm(dim=-1) / lengths).sub(1).abs().max() < 0.1


LEARNED = {
    "CLIPLoRA": {},
    "CLIPSVD": {},
    "LNOnly": {},
    "SkipTuning": {"START_LAYER": 2},
    "TwoSFS": {},
    "MMRL": {"REP_LAYERS": [2, 3]},
}


@pytest.mark.parametrize("name", LEARNED)
def test_methods_whose_text_is_learned_take_one_sentence(tiny_clip, name):
    def made(sentences):
        return build_method(name, LEARNED[name], tiny_clip, NAMES, sentences=sentences)

    zero = build_method("ZERO", {"CTX_INIT": "a"}, tiny_clip, NAMES).text_encoder
    assert made("a {}.").text_encoder.sentences == zero.sentences
    with pytest.raises(UserError, match=f"{name} learns inside the text encoder"):
        made("a {}. | the {}.")


BESIDE = {
    "prompts": ("CoOp", {}, Asked("clip7"), "CoOp does not start from given sentences"),
    "no text": ("LinearProbe", {}, Asked("clip7"), "LinearProbe does not start from given"),
    "words": ("MTA", {"CTX_INIT": "a"}, Asked("clip7"), "beside TRAINER.MTA.CTX_INIT 'a'"),
    "a template": ("CLIPSVD", {"TEMPLATE": "a {}"}, Asked("clip7"), "CLIPSVD.TEMPLATE 'a {}'"),
    "own": ("TPS", {"SENTENCES": "emoji"}, Asked("clip7"), "beside TRAINER.TPS.SENTENCES 'emoji'"),
    "scores": ("TaskRes", {}, Asked("clip7", "score_mean"), "TaskRes normalises h0"),
    "max": ("TDA", {}, Asked("clip7", "score_max"), "TDA normalises h0, or compares"),
    "projection": ("ProLIP", {"SIDE": "text"}, Asked("clip7", "normalised_mean"), "set raw_mean"),
}


@pytest.mark.parametrize("case", BESIDE)
def test_sentences_are_refused_where_they_would_mean_nothing(tiny_clip, case):
    name, node, asked, part = BESIDE[case]
    with pytest.raises(UserError, match=part):
        build_method(name, node, tiny_clip, NAMES, sentences=asked)


def test_methods_that_start_from_text_have_rules():
    others = {*LEARNED, "MMRLpp", "TipAdapter", "TipAdapterF"}
    assert all(METHODS[name].rules for name in (*MANY, *others))
    assert METHODS["ZeroshotCLIP"].rules == RULES and not METHODS["ALIGN"].rules
