"""The example in the docstring of every public name runs, and prints what it says."""

import doctest

import pytest
from trainers.prompting.scores import SCORES

from trainers import prompting
from trainers.prompting import methods  # noqa: F401 (registers the built-in methods)
from trainers.prompting.method import METHODS


@pytest.fixture(autouse=True)
def registries():
    """Remove the methods and scores that an example registers."""
    before = [(table, dict(table)) for table in (METHODS, SCORES)]
    yield
    for table, content in before:
        table.clear()
        table.update(content)


@pytest.mark.parametrize("name", prompting.__all__)
def test_the_example_of_a_public_name(name):
    (example,) = doctest.DocTestFinder(recurse=False).find(getattr(prompting, name), name)
    assert example.examples, f"{name} has none"
    runner = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    said = []
    assert not runner.run(example, out=said.append).failed, "".join(said)
