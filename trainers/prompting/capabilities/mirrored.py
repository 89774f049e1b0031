"""The base of methods whose training images are seen as they are and mirrored."""

from .on_support import OnSupport


class Mirrored(OnSupport):
    """A method with a support of plain images; in every second pass they are mirrored.

    Its configs have INPUT.TRANSFORMS without random ones. Rows of features cannot be mirrored, so
    a run on them has one pass.
    """
