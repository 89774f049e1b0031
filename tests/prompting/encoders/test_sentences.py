"""Sentences of templates, and their layout."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.prompting import UserError, write_sentences
from trainers.prompting.backbones.openai import OPENAI, clip
from trainers.prompting.encoders.layout import Layout
from trainers.prompting.encoders.sentences import Sentence, shared_length

same_examples = settings(deadline=None, derandomize=True)  # also on a busy machine
NAMES = st.text("abcdefg -().'é", min_size=1, max_size=20).map(str.strip).filter(bool)


def write(clip_model, template, name, b, position="end", **more):
    """Return the sentence of one template and class."""
    ((sentence,),) = write_sentences(clip_model, [template], [name], b, position, **more)
    return sentence


def text(sentence) -> str:
    return OPENAI.tokenizer.decode(sentence.ids[1:-1]).strip()


@pytest.mark.parametrize(
    "template, whole, behind",
    [
        ("a photo of a", "a photo of a red fox .", 1),
        ("a photo of a {}.", "a photo of a red fox .", 1),
        ("X X X X {}, a type of pet.", "x x x x red fox , a type of pet .", 6),
        ("X X X X {}, a type of car", "x x x x red fox , a type of car", 5),
        ("X X X X {} texture.", "x x x x red fox texture .", 2),
        ("a type of pet, a photo of a {}.", "a type of pet , a photo of a red fox .", 1),
    ],
)
def test_words_stand_around_the_class_name(tiny_clip, template, whole, behind):
    sentence = write(tiny_clip, template, "red fox", 4)
    assert text(sentence) == whole
    assert sentence.slots == {1: 0, 2: 1, 3: 2, 4: 3}
    assert sentence.ids.index(OPENAI.tokenizer.eos) == sentence.eos == len(sentence.ids) - 1
    stop = whole.endswith(".")
    assert sentence.end == sentence.eos - stop
    fox = OPENAI.tokenizer.encode("fox")[0]
    assert sentence.ids.index(fox) == sentence.eos - 1 - behind


@same_examples
@given(st.lists(NAMES, min_size=1, max_size=4), st.sampled_from(["", "{} in it.", "a {}"]))
def test_the_longest_common_start_is_shared(tiny_clip, names, end):
    template = "a photo of a " + end
    (row,) = write_sentences(tiny_clip, [template], names, 2)
    for sentence, name in zip(row, names, strict=True):
        words = template.replace("{}", name) if end else f"a photo of a {name}."
        assert sentence.ids == clip.tokenize(words)[0][: len(sentence.ids)].tolist()
    shared = shared_length(row, class_specific=False)
    assert len({tuple(s.ids[:shared]) for s in row}) == 1
    ends = shared == min(s.eos for s in row)
    assert ends or len({s.ids[shared] for s in row}) > 1
    assert shared_length(row, class_specific=True) == 1


@pytest.mark.parametrize("position, slots", [("middle", [1, 2, 5, 6]), ("front", [3, 4, 5, 6])])
def test_a_class_name_moves_into_or_before_the_context(tiny_clip, position, slots):
    sentence = write(tiny_clip, "X X X X", "red fox", 4, position)
    words = {"middle": "x x red fox x x .", "front": "red fox x x x x ."}
    assert text(sentence) == words[position]
    assert list(sentence.slots) == slots


BAD = {
    "too long": ("a photo of a", "very " * 80 + "cat", "'very very.*' is too long"),
    "too few words": ("a {} in the photo of a", "cat", "has 1 tokens before the class name"),
    "no words": ("{} texture.", "cat", "has 0 tokens before the class name"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_sentences(tiny_clip, case):
    template, name, part = BAD[case]
    with pytest.raises(UserError, match=part) as error:
        write(tiny_clip, template, name, 4)
    assert "\n" not in str(error.value)


def test_a_fixed_sentence_has_no_places_for_learned_tokens(tiny_clip):
    sentence = write(tiny_clip, "a photo of a {}.", "sea_or  lake", 0)
    assert not sentence.slots and text(sentence) == "a photo of a sea or lake ."


# ------------------------------------------------------------------ layout

TAILS = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=5), min_size=1, max_size=4)
HEAD = st.lists(st.integers(4, 9), min_size=2, max_size=6)
END = st.lists(st.integers(4, 9), max_size=2)
PROMPTS = st.lists(st.tuples(HEAD, END), min_size=1, max_size=3)


def sentences_of(prompts, tails):
    """Return sentences [N][K]: SOS, the prompt's head, the class's tail, the prompt's end, EOS.

    The first two tokens of a head are slots.
    """
    return [
        [
            Sentence(
                ids := [100, *head, *tail, *end, 101], {1: 0, 2: 1}, len(ids) - 2, len(ids) - 1
            )
            for tail in tails
        ]
        for head, end in prompts
    ]


@same_examples
@given(PROMPTS, TAILS, st.booleans())
def test_every_position_is_found(prompts, tails, own):
    sentences = sentences_of(prompts, tails)
    cut = [shared_length(row, own) for row in sentences]
    spans = [[range(1, s.end) for s in row] for row in sentences]
    layout = Layout(sentences, cut, spans)
    ids = torch.cat([layout.prefix_ids, layout.suffix_ids], dim=1)
    positions = torch.cat(
        [torch.arange(layout.P).expand(len(cut), -1), layout.suffix_positions], dim=1
    )
    for n, row in enumerate(sentences):
        for k, sentence in enumerate(row):
            places = [layout.place(n, k, p) for p in range(len(sentence.ids))]
            assert ids[n, places].tolist() == sentence.ids
            assert positions[n, places].tolist() == list(range(len(sentence.ids)))
            at = n % len(layout.eos)
            assert ids[n, layout.P + layout.eos[at, k]] == 101
            real = layout.token_weights.mass[n, k] > 0
            assert layout.token_index[n, k, real].tolist() == places[1 : sentence.end]
            torch.testing.assert_close(layout.token_weights.mass[n, k].sum(), torch.tensor(1.0))
            # EOS sees all positions of its sentence and no others
            mask = layout.eos_mask[n % len(layout.eos_mask), k]
            assert mask.sum() == len(sentence.ids)
    packed = layout.suffix_ids[0]
    assert torch.equal(packed[layout.pad_index][layout.pack_index], packed)
    slots = layout.prefix_slots + layout.suffix_slots.shape[1] / len(tails)
    assert slots == 2
    assert {b.dtype for b in layout.buffers()} <= {torch.long, torch.bool, torch.float32}
    assert not layout.state_dict()
