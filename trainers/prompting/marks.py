"""Marks in tables for methods that use more than labelled training images and class names."""

from collections.abc import Iterable

PER_DATASET = "per data set"
EQUAL = "equal teacher"
VALIDATION = "validation"
ONE_IMAGE = "one test image"
STREAM = "test stream"
WHOLE = "whole test set"
FILE = "sentences"
TEST_IMAGES = "test images"  # of older records and files, in place of the three before
BEYOND = {
    "llm": "words or sentences of a language model",
    FILE: "sentences about the classes, from a file",
    "unlabelled": "unlabelled images of the target",
    VALIDATION: "settings or the epoch chosen on labelled validation images",
    PER_DATASET: "settings chosen for each data set",
    "teacher": "a larger teacher",
    EQUAL: "a trained teacher that is no larger",
    ONE_IMAGE: "adapts to each test image by itself",
    STREAM: "adapts to the test images before each one",
    WHOLE: "classifies all test images together",
    TEST_IMAGES: "adapts to the images that it is tested on",
}
OF_OLD = dict.fromkeys(("TPT", "MTA", "ZERO", "TPS", "CTPT"), ONE_IMAGE) | {
    "TDA": STREAM, "TransCLIP": WHOLE,
}  # fmt: skip


def renew(marks: Iterable[str], method: str) -> list[str]:
    """Return marks of a method with today's in place of `test images`, if one is known."""
    return [OF_OLD.get(method, mark) if mark == TEST_IMAGES else mark for mark in marks]
