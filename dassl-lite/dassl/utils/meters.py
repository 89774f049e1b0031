"""Running averages of the values that a step reports."""

from collections import defaultdict

import torch


class AverageMeter:
    """Keeps the last value and the average; tensors stay on their device until they are read."""

    def __init__(self):
        self.reset()

    def reset(self):
        """Forget all values."""
        self._val = 0.0
        self._sum = 0.0
        self.count = 0

    def update(self, val, n=1):
        """Add `val`, the average of `n` items."""
        if isinstance(val, torch.Tensor):
            val = val.detach().float()
        self._val = val
        self._sum = self._sum + val * n
        self.count += n

    @property
    def val(self):
        """The last value."""
        return float(self._val)

    @property
    def sum(self):
        """The sum of all values, weighted by their counts."""
        return float(self._sum)

    @property
    def avg(self):
        """The average of all values; 0 without any."""
        return self.sum / self.count if self.count else 0.0


class MetricMeter:
    """An AverageMeter for each name, printed as `loss 0.1234 (0.2345) acc ...`."""

    def __init__(self, delimiter=" "):
        """Start without meters; `delimiter` separates them when printed."""
        self.meters: dict[str, AverageMeter] = defaultdict(AverageMeter)
        self.delimiter = delimiter

    def update(self, input_dict):
        """Add each value (a number, or a tensor of one element) of a step's summary."""
        for name, value in (input_dict or {}).items():
            self.meters[name].update(value)

    def __str__(self):
        """Return the last value and the average of each meter as text."""
        return self.delimiter.join(map(self.text_of, self.meters))

    def text_of(self, name):
        """Return the last value and the average of one meter as text."""
        meter = self.meters[name]
        return f"{name} {meter.val:.4f} ({meter.avg:.4f})"
