"""The examples in public docstrings say what happens."""

from __future__ import annotations

import doctest

import pytest

import zkjax
from program.test_arguments import CALLS
from zkjax import fixed
from zkjax._compat import x64

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
SHOWN = {
    name: test
    for name, fn in CALLS.found.items()
    if (
        test := doctest.DocTestParser().get_doctest(fn.__doc__ or "", {}, name, None, None)
    ).examples
}


@pytest.mark.parametrize("name", SHOWN)
def test_the_examples_of_a_docstring(name):
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    with x64():
        assert runner.run(SHOWN[name]).failed == 0


def test_most_public_functions_have_an_example():
    entries = {"zkjax.prove", "zkjax.seal", "zkjax.trace", "zkjax.provable"}
    assert entries <= set(SHOWN)
    shown = {name for name in SHOWN if name.startswith("zkjax.fixed.")}
    assert 2 * len(shown) > len(fixed.__all__) and zkjax.__doc__
