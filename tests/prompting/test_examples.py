"""The example in the docstring of every public name runs, and prints what it says."""

import doctest

import pytest

from trainers import prompting
from trainers.prompting import methods  # noqa: F401 (registers the built-in methods)


@pytest.mark.parametrize("name", prompting.__all__)
def test_the_example_of_a_public_name(name):
    (example,) = doctest.DocTestFinder(recurse=False).find(getattr(prompting, name), name)
    assert example.examples, f"{name} has none"
    if "transformers" in example.docstring:
        pytest.importorskip("transformers", reason="transformers is not installed")
    runner = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    said = []
    assert not runner.run(example, out=said.append).failed, "".join(said)
