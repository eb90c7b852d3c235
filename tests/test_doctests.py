"""Every example in a docstring runs and gives what it says."""

import doctest
import pkgutil
from importlib import import_module

import pytest

import bayeslmm

MODULES = ["bayeslmm", *(found.name for found in pkgutil.walk_packages(bayeslmm.__path__, "bayeslmm."))]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    outcome = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS)
    assert outcome.failed == 0, f"{outcome.failed} of {outcome.attempted} examples fail; see the captured output"


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for name in MODULES for test in finder.find(import_module(name)) if test.examples]
    assert len(found) >= 20
