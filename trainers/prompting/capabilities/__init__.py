"""Base classes of methods that need more than `Method`: what some methods share, a class each."""

from ..checkpoint.public import PublicFiles
from .at_test_time import AtTestTime
from .biased import Biased
from .of_views import OfViews
from .on_support import OneView, OnSupport
from .per_class import PerClass
from .planned import Planned
from .staged import Staged
from .taught import Taught
from .transductive import Transductive
from .unlabelled import Unlabelled

CAPABILITIES: tuple[type, ...] = (
    AtTestTime, Biased, OfViews, OneView, OnSupport, PerClass, Planned, PublicFiles, Staged, Taught,
    Transductive, Unlabelled,
)  # fmt: skip
