"""Marks in tables for methods that use more than labelled training images and class names."""

PER_DATASET = "per data set"
EQUAL = "equal teacher"
VALIDATION = "validation"
ONE_IMAGE = "one test image"
STREAM = "test stream"
WHOLE = "whole test set"
FILE = "sentences"
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
}
