"""Types of the arguments of ``zkjax.fixed``, which ``checked`` holds callers to."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from jax.typing import ArrayLike

from zkjax._marks import Between, HostNumbers, IntegerType, Numbers, Values


def as_array(x: Any) -> Any:
    """An array of JAX or NumPy as it is, a number as one of NumPy's, of 64 bits."""
    return x if hasattr(x, "astype") else np.asarray(x)


Array = Annotated[ArrayLike, Numbers()]
Real = Annotated[Any, Values()]  # in floating point of any kind too
HostArray = Annotated[Any, HostNumbers()]  # also lists
IntegerDtype = Annotated[Any, IntegerType()]
Fraction = Annotated[int, Between(-900, 900)]  # fraction bits
TableFraction = Annotated[int, Between(0, 46)]  # of keys and values of a table
Bits = Annotated[int, Between(0, 1024)]  # of a value; what can be proved is 1 to 62
Axis = Annotated[int, Between(1, 1 << 26)]  # the length of an axis
