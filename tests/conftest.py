"""Shared set-up: compiled kernels are kept between runs in a private folder of the user."""

from __future__ import annotations

import pytest

from zkjax._compat import enable_kernel_cache

enable_kernel_cache()


@pytest.fixture
def rng():
    import numpy as np

    return np.random.default_rng(20260101)
