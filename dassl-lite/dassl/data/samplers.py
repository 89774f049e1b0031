"""Samplers: the order in which images are drawn."""

import torch
from torch.utils.data import Sampler, SequentialSampler

from dassl.utils import UserError, unknown_name


class SeededIndex(int):
    """The index of an image, with the seed of its augmentation.

    So an image's augmentation depends only on the run's seed: not on the number of workers, the
    worker that reads it, or the images read before. A resumed run relies on this.
    """

    seed: int

    def __new__(cls, index, seed=0):
        """Make the integer `index` with the attribute `seed`."""
        self = super().__new__(cls, index)
        self.seed = seed
        return self


class _SeededSampler(Sampler):
    """Base of samplers that draw one seed per epoch from the global generator."""

    def __init__(self, data_source):
        self.data_source = data_source

    def __iter__(self):
        generator = torch.Generator()
        generator.manual_seed(int(torch.randint(2**62, ())))
        order = self.order(generator)
        seeds = torch.randint(2**32, (len(order),), generator=generator).tolist()
        return map(SeededIndex, order, seeds)

    def order(self, generator):
        """Return the indices of one epoch."""
        raise NotImplementedError

    def __len__(self):
        return len(self.data_source)


class RandomSampler(_SeededSampler):
    """Draws every image once, in random order."""

    def order(self, generator):
        """Return a permutation of the indices."""
        return torch.randperm(len(self.data_source), generator=generator).tolist()


class RandomClassSampler(_SeededSampler):
    """Draws batches of `batch_size` // `n_ins` random classes with `n_ins` images each.

    Classes with fewer images are drawn with replacement. When too few classes have images left,
    all classes are refilled, so that every epoch has the same number of batches.
    """

    def __init__(self, data_source, batch_size, n_ins):
        """Group the images by class; raises UserError if there are too few classes for a batch."""
        super().__init__(data_source)
        if data_source and isinstance(data_source[0].label, tuple):
            raise UserError(
                "RandomClassSampler draws images of one class, but these have several labels: take "
                "RandomSampler"
            )
        self.n_ins = n_ins
        self.n_classes = batch_size // n_ins
        self.by_label: dict[int, list[int]] = {}
        for index, item in enumerate(data_source):
            self.by_label.setdefault(item.label, []).append(index)
        if not 1 <= self.n_classes <= len(self.by_label):
            raise UserError(
                f"RandomClassSampler cannot fill a batch of {batch_size} with {n_ins} images of"
                f" each class from {len(self.by_label)} classes: change BATCH_SIZE or N_INS"
            )

    def order(self, generator):
        """Return the indices of the batches, one batch after another."""
        groups: dict[int, list[list[int]]] = {}
        order: list[int] = []
        while len(order) < len(self):
            if len(groups) < self.n_classes:
                groups = {label: self._groups(label, generator) for label in self.by_label}
            labels = list(groups)
            places = torch.randperm(len(labels), generator=generator)[: self.n_classes].tolist()
            for label in (labels[i] for i in places):
                order += groups[label].pop()
                if not groups[label]:
                    del groups[label]
        return order

    def _groups(self, label, generator):
        """Return the images of a class in random groups of `n_ins`, without the remainder."""
        indices = torch.tensor(self.by_label[label])
        n = len(indices)
        if n < self.n_ins:
            return [indices[torch.randint(n, (self.n_ins,), generator=generator)].tolist()]
        in_groups = n - n % self.n_ins
        picked = indices[torch.randperm(n, generator=generator)[:in_groups]]
        return picked.view(-1, self.n_ins).tolist()

    def __len__(self):
        """Return the number of images in an epoch."""
        groups = sum(max(len(indices) // self.n_ins, 1) for indices in self.by_label.values())
        return groups // self.n_classes * self.n_classes * self.n_ins


def build_sampler(sampler_type, cfg=None, data_source=None, batch_size=32, n_domain=0, n_ins=16):
    """Build the sampler that `sampler_type` names."""
    if sampler_type == "RandomSampler":
        return RandomSampler(data_source)
    if sampler_type == "SequentialSampler":
        return SequentialSampler(data_source)
    if sampler_type == "RandomClassSampler":
        return RandomClassSampler(data_source, batch_size, n_ins)
    names = ["RandomClassSampler", "RandomSampler", "SequentialSampler"]
    raise unknown_name("SAMPLER", sampler_type, names)
