"""The data sets that are files of features only: there are no images of them here."""

from dassl.data.datasets import DATASET_REGISTRY

from trainers.prompting.errors import UserError
from trainers.prompting.storage.features import read_features

from .base import ImageDataset
from .rows import ANY
from .several import SeveralLabels


@DATASET_REGISTRY.register()
class FeatureFile(ImageDataset):
    """A user's own file of features, which DATASET.FEATURES (`--features`) names."""

    rows_of = ANY

    @classmethod
    def kind(cls, node):
        """Return the class for the labels of the file: one or several an image."""
        file = getattr(node, "FEATURES", "") if cls is FeatureFile else ""
        return FeaturesOfSeveral if file and read_features(file).several else cls

    def locate(self, cfg):
        """Refuse a run without a file."""
        raise UserError(
            f"{type(self).__name__} is read from a file of features: give --features FILE "
            "(DATASET.FEATURES); docs/features.md has its layout"
        )


class FeaturesOfSeveral(SeveralLabels, FeatureFile):
    """A `FeatureFile` whose images have several labels."""


@DATASET_REGISTRY.register()
class WHURS19(FeatureFile):
    """1,005 aerial photographs of 19 classes (Xia et al., 2010), as features of OpenAI's CLIPs.

    The files are assets/whurs19_*.safetensors; the split is this project's.
    """

    rows_of = "WHURS19"


@DATASET_REGISTRY.register()
class WHURS19All(WHURS19):
    """All 1,005 photographs as test images, in the order of the file."""

    only_tested = True
