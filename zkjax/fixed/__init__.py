"""Fixed-point numerics that provable programs are written with.

Values are float64 arrays that hold exact numbers k * 2^-f; sums and products are exact, and only
the functions here round or look up. They are ordinary JAX functions: they jit, vmap and
differentiate. ``f`` and the range of ``k`` are inferred when a function is traced for proving.
"""

from zkjax.fixed.choices import argmax, relu
from zkjax.fixed.functions import (
    cross_entropy,
    divide,
    embed,
    exp,
    log,
    lookup,
    max,
    onehot,
    reciprocal,
    rsqrt,
    sigmoid,
    silu,
    softmax,
)
from zkjax.fixed.rounding import (
    Format,
    constant,
    cotangent_format,
    decode,
    encode,
    quantize,
    round,
)
from zkjax.fixed.tabulated import gelu, table, tanh

__all__ = [
    "Format",
    "argmax",
    "constant",
    "cotangent_format",
    "cross_entropy",
    "decode",
    "divide",
    "embed",
    "encode",
    "exp",
    "gelu",
    "log",
    "lookup",
    "max",
    "onehot",
    "quantize",
    "reciprocal",
    "relu",
    "round",
    "rsqrt",
    "sigmoid",
    "silu",
    "softmax",
    "table",
    "tanh",
]
