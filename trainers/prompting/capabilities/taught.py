"""The base of methods that learn from an earlier training."""

from collections.abc import Mapping
from typing import ClassVar

from ..method import Method


class Taught(Method):
    """A method whose training needs the result of another one.

    Attributes: Class attributes
        taught_by: keys of `Settings` that name the places of earlier trainings, each with the key
            that names its CLIP.

    Examples:
        >>> class Student(Taught):
        ...     taught_by = {"TEACHER": "TEACHER_NAME"}
    """

    taught_by: ClassVar[Mapping[str, str]] = {}
