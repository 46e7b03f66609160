"""Fixed-point numerics that provable programs are written with.

Values are float64 arrays that hold exact numbers k * 2^-f; sums and products are exact, and only
the functions here round or look up. They are ordinary JAX functions: they jit, vmap and
differentiate. ``f`` and the range of ``k`` are inferred when a function is traced for proving.
"""

from zkjax.fixed.choices import argmax, relu
from zkjax.fixed.functions import (
    divide,
    embed,
    exp,
    locate,
    log,
    lookup,
    max,
    onehot,
    reciprocal,
    rsqrt,
    sigmoid,
    silu,
)
from zkjax.fixed.norm import inverse_rms, rms_normalize
from zkjax.fixed.roots import sqrt
from zkjax.fixed.rounding import (
    Format,
    Scale,
    constant,
    cotangent_format,
    decode,
    encode,
    quantize,
    round,
    round_cotangent,
    round_value,
    scale,
    significant,
)
from zkjax.fixed.softmax import cross_entropy, softmax
from zkjax.fixed.tabulated import gelu, table, tanh

__all__ = [
    "Format",
    "Scale",
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
    "inverse_rms",
    "locate",
    "log",
    "lookup",
    "max",
    "onehot",
    "quantize",
    "reciprocal",
    "relu",
    "rms_normalize",
    "round",
    "round_cotangent",
    "round_value",
    "rsqrt",
    "scale",
    "sigmoid",
    "significant",
    "silu",
    "softmax",
    "sqrt",
    "table",
    "tanh",
]
