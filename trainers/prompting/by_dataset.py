"""BY_DATASET: a section of a config file whose values hold on one data set alone.

    BY_DATASET:
      ImageNet:
        OPTIM:
          MAX_EPOCH: 25

On that data set they take the place of the file's other values. Needs no PyTorch.
"""

from collections.abc import Mapping

SECTION = "BY_DATASET"


def for_dataset(keys: Mapping[str, object], dataset: str) -> dict[str, object]:
    """The keys of a config file on a data set, without the section.

    Args:
        keys: dotted keys, among them some like `BY_DATASET.ImageNet.OPTIM.MAX_EPOCH`.
        dataset: as `DATASET.NAME`.
    """
    own = f"{SECTION}.{dataset}."
    plain = {key: value for key, value in keys.items() if not key.startswith(f"{SECTION}.")}
    return plain | {k.removeprefix(own): v for k, v in keys.items() if k.startswith(own)}
