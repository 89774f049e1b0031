"""Marks in tables for methods that use more than labelled images and class names."""

PER_DATASET = "per data set"
BEYOND = {
    "llm": "words or sentences of a language model",
    "unlabelled": "unlabelled images of the target",
    PER_DATASET: "settings chosen for each data set",
    "teacher": "a larger teacher",
}
