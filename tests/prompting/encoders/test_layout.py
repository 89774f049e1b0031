"""The layout holds every token of every sentence once, at the place that it returns."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from trainers.prompting.encoders.layout import Layout
from trainers.prompting.encoders.sentences import Sentence, shared_length

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
