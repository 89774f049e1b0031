"""The cache of Tip-Adapter: sums by class in place of a product."""

import torch
from golden_files import near

from trainers.prompting.methods.tip_adapter import KeyValueCache


def test_labels_take_the_place_of_a_product_of_values():
    cache = KeyValueCache(4, 3, trained=True)
    cache.weight.data = torch.randn(5, 4)
    a = torch.rand(2, 5)

    def labels(values):
        cache.values = values
        assert near(cache.likeness(a, 2.0), torch.exp(2 * a - 2) @ values, 1e-6)
        return cache.labels()

    one_hot = torch.eye(3)[[0, 2, 2, 1, 0]] * torch.rand(5, 1)
    assert labels(one_hot)[0].tolist() == [0, 2, 2, 1, 0]
    assert cache.labels()[1] is cache.labels()[1]
    cache.values[0] = torch.tensor([0.0, 3.0, 0.0])  # in place, as a checkpoint is loaded
    assert cache.labels()[0].tolist() == [1, 2, 2, 1, 0]
    assert labels(one_hot[:, 1:])[1][4] == 0  # of no class that is kept
    assert labels(torch.rand(5, 3)) is None
    with torch.inference_mode():
        assert labels(one_hot.clone()) is not None
