"""The weighted mean of the trained parameters over the epochs of a run."""

import math
from collections.abc import Mapping

import torch
from torch import nn


class GaussianMean(nn.Module):
    """The mean theta = sum_a w_a theta_a over the epochs a = 1..E, w_a from a normal density of a.

    This is the aggregation of PromptSRC (arXiv:2307.06948, section 3.2). The sum so far is kept in
    float32 buffers, so that checkpoints hold it and a run can resume. `mean` and `std` are in
    epochs.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], mean: float, std: float):
        super().__init__()
        self.mean, self.std = mean, std
        for name, parameter in parameters.items():
            self.register_buffer(self._own(name), torch.zeros(parameter.shape))

    @staticmethod
    def _own(name: str) -> str:
        return name.replace(".", "/")

    def weights(self, last: int) -> list[float]:
        """Return w_1 to w_E, which sum to 1, for E = `last`."""
        distances = [(a - self.mean) / self.std for a in range(1, last + 1)]
        nearest = min(d * d for d in distances)  # subtracted, or all densities may underflow to 0
        densities = [math.exp((nearest - d * d) / 2) for d in distances]
        return [density / sum(densities) for density in densities]

    @torch.no_grad()
    def add(self, parameters: Mapping[str, nn.Parameter], epoch: int, last: int) -> None:
        """Add the parameters of an epoch, 1 to `last`; after the last, set them to the mean.

        The first epoch begins a new mean.
        """
        weight = self.weights(last)[epoch - 1]
        for name, parameter in parameters.items():
            total = getattr(self, self._own(name))
            if epoch == 1:
                total.zero_()
            total += weight * parameter.float()
            if epoch == last:
                parameter.copy_(total)
