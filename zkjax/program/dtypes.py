"""The integer types of inputs and outputs, and how large numbers may be."""

MAX_BOUND = 2**52  # of an honest run: float64 holds sums and products up to here exactly
# What may be computed from operands at their bounds, and is then seen to stay below 2^52 when the
# program runs: sums of many products hardly ever reach what the formats of their terms allow.
MAX_WIDE_BOUND = 2**61

DTYPE_RANGES = {
    "bool": (0, 1),
    "int8": (-(2**7), 2**7 - 1),
    "uint8": (0, 2**8 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "uint16": (0, 2**16 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
}
# Public outputs may be wider: whoever verifies sees them, so they need no range check.
PUBLIC_RANGES = DTYPE_RANGES | {"int64": (-MAX_BOUND, MAX_BOUND)}
