"""Marks in tables for methods that use more than labelled images and class names."""

PER_DATASET = "per data set"
TEST_IMAGES = "test images"
EQUAL = "equal teacher"
BEYOND = {
    "llm": "words or sentences of a language model",
    "unlabelled": "unlabelled images of the target",
    PER_DATASET: "settings chosen for each data set",
    "teacher": "a larger teacher",
    EQUAL: "a trained teacher that is no larger",
    TEST_IMAGES: "adapts to the images that it is tested on",
}
