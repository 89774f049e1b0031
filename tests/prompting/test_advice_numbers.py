"""Numbers of the advice, computed again: zero-shot logits, labels that look wrong, near-copies."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import softmax
from test_advice import clusters, of

from trainers.prompting.advice.fits import Space
from trainers.prompting.advice.folds import near_copies
from trainers.prompting.advice.labels import suspicious, temperature


def test_zero_shot_logits_are_scaled_cosines():
    space, _ = clusters()
    wanted = 30 * F.cosine_similarity(space.images[:, None], space.text[None], dim=2)
    torch.testing.assert_close(torch.from_numpy(space.zero_shot()), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_half_a_correct_label_is_expected_among_those_that_look_wrong(seed):
    rng = np.random.default_rng(seed)
    y = np.arange(200) % 4
    logits = 4 * np.eye(4)[y] + 1.5 * rng.standard_normal((200, 4))
    logits[:20] = np.roll(logits[:20], 1, axis=1)  # labels that are wrong
    choice = of(logits, y)
    named = suspicious(choice)
    p = softmax(choice.best.logits / temperature(choice, named), axis=1)
    own = p[np.arange(200), y]
    others = np.delete(own, named)
    assert len(named) and p[p <= own[named].max()].sum() < 0.55  # of the last round but one: 0.5
    assert p[p <= others.min()].sum() > 0.45


def test_images_of_a_class_that_look_alike_are_joined_with_no_other():
    space, y = clusters(noise=3.0, each=6)
    images = space.images.clone()
    images[y == 1] = space.images[1]
    alike = Space("a CLIP", images, space.text, 30.0)
    assert len(np.unique(near_copies([alike], np.arange(24), y))) == 24
