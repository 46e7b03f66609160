"""Shared set-up: compiled kernels are kept between runs in a private folder of the user."""

from __future__ import annotations

import pytest

from zkjax._compat import enable_kernel_cache

enable_kernel_cache()

LONG = ("finetune.ipynb", "test_runs.py", "test_forged_runs.py", "test_optimizer_step.py")


def pytest_collection_modifyitems(items):
    """Files that take minutes come first: several processes wait for the one that ends last."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture
def rng():
    import numpy as np

    return np.random.default_rng(20260101)
