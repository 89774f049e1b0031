"""What a method must keep to, checked on the embedded CLIP without a real run.

`checks` lists the checks; `stamp` does the quick ones before the run of a plug-in. Each has in its
docstring a mistake that it finds, and in `tests/prompting/conformance` an example of one. No check
finds what a method reads from the environment, from global variables and from files elsewhere,
images that are normalised twice, a weaker optimiser, or an equation that is not the paper's.
"""
