"""The primitives of ``zkjax.fixed``: each commits a hint and adds the relations that make it
unique.
"""

from __future__ import annotations

import numpy as np

from zkjax.errors import OverflowBoundError, ScaleError
from zkjax.program.dtypes import DTYPE_RANGES, MAX_BOUND
from zkjax.program.rules.arithmetic import fitted
from zkjax.program.rules.contraction import contract
from zkjax.program.tables import range_table
from zkjax.program.tracer import Sym, Tracer, primitive

FIELD_BITS = 62  # products of hints must stay below p / 2 even for a cheating prover


def require_bits(t: Tracer, bits: int, least: int = 1) -> None:
    if not least <= bits <= FIELD_BITS:
        raise OverflowBoundError(f"bits = {bits}; it is {least} to {FIELD_BITS}", t.where)


@primitive("zk_round")
def _round(t: Tracer, eqn, x):
    """y = floor((z + 2^(s-1)) / 2^s); rem = z + 2^(s-1) - 2^s y in [0, 2^s), y in its bits.

    Two solutions would differ by |2^s (y - y')| < 2^s, so y is unique while 2^s y does not wrap.
    """
    fraction, bits = eqn.params["fraction"], eqn.params["bits"]
    b, s = t.builder, x.fraction - fraction
    require_bits(t, bits)
    if s <= 0:
        y = t.at_fraction(x, fraction)
        half = 1 << (bits - 1)
        if not b.within(y.var, -half, half - 1):
            y = Sym(b.alias(y.var, -half, half - 1), fraction)
            b.signed_range_check(y.var, bits, y.var, f"fixed.round at {t.where}")
        b.rely(y.var, -half, half - 1, f"fixed.round(bits={bits})", check=True)
        return [y]
    place = f"site {eqn.params['site']}, " if eqn.params["site"] else ""
    if s + bits > FIELD_BITS:
        raise OverflowBoundError(
            f"{place}rounding drops {s} bits and keeps {bits}; together they must not exceed "
            f"{FIELD_BITS}",
            t.where,
        )
    # Named by its bits too: a check of one rounding must not outlive it in another.
    y = b.add("round", [x.var], b.shape(x.var), 1 << (bits - 1), s, key=bits)
    note = f"{place}fixed.round(fraction={fraction}, bits={bits}) at {t.where}"
    b.signed_range_check(y, bits, y, note)
    rem = b.affine([(x.var, 1), (y, -(1 << s))], 1 << (s - 1), bound=(1 << s) - 1)
    b.range_check(rem, s, y, note)
    return [Sym(y, fraction)]


@primitive("zk_lookup")
def _lookup(t: Tracer, eqn, x):
    """Columns of a public table at key x; one lookup serves all of them."""
    p = eqn.params
    table, b = p["table"], t.builder
    x = t.at_fraction(x, p["in_fraction"])
    key = table.digest.hex()
    outputs = []
    for column in range(1, table.width):
        bound = int(np.abs(table.columns[column]).max())
        outputs.append(b.add("lookup", [x.var], b.shape(x.var), bound, key, column))
    note = f"table '{table.name}' at {t.where}"
    b.notes[x.var] = note
    for y in outputs:
        b.notes[y] = note
        b.lookup(table, [x.var, *outputs], y)
    return [Sym(y, f) for y, f in zip(outputs, p["out_fractions"], strict=True)]


@primitive("zk_locate")
def _locate(t: Tracer, eqn, x):
    """Columns of the row i with first_i <= x <= last_i: (i, first_i, last_i, ...) is a row of the
    table, and x - first_i and last_i - x are not negative. The intervals do not overlap, so one row
    does.
    """
    p = eqn.params
    table, b = p["table"], t.builder
    x = t.at_fraction(x, p["in_fraction"])
    shape, key = b.shape(x.var), table.digest.hex()
    row = b.add("locate", [x.var], shape, table.rows, key)
    columns = [
        b.add("lookup", [row], shape, int(np.abs(table.columns[c]).max()), key, c)
        for c in range(1, table.width)
    ]
    first, last, *outputs = columns
    note = f"table '{table.name}' at {t.where}"
    width = int(np.max(table.columns[2] - table.columns[1])).bit_length()
    outside = f"{note}: its argument is outside what the table covers; in other units"
    owners = outputs or [row]
    for y in owners:
        b.notes[y] = note
        b.lookup(table, [row, *columns], y)
        for over in ([(x.var, 1), (first, -1)], [(last, 1), (x.var, -1)]):
            b.range_check(b.affine(over, bound=(1 << width) - 1), width, y, outside)
    return [Sym(y, f) for y, f in zip(outputs, p["out_fractions"], strict=True)]


@primitive("zk_divide")
def _divide(t: Tracer, eqn, n, d):
    """y = floor(n 2^s / d): rem = n 2^s - d y satisfies 0 <= rem <= d - 1."""
    fraction, bits = eqn.params["fraction"], eqn.params["bits"]
    b = t.builder
    require_bits(t, bits)
    d = t.sym(d)
    n = t.spread(n, b.shape(d.var))
    shift = fraction + d.fraction - n.fraction
    if shift < 0:
        raise ScaleError(
            f"the quotient has {fraction} fraction bits, fewer than the numerator's "
            f"{n.fraction} minus the denominator's {d.fraction}; round the numerator first",
            t.where,
        )
    width = t.bits_of(d.var)
    if width + bits > FIELD_BITS:
        raise OverflowBoundError(
            f"a {width}-bit denominator times a {bits}-bit quotient may wrap; round the former",
            t.where,
        )
    numerator = b.affine([(n.var, 1 << shift)])
    y = b.add("divide", [numerator, d.var], b.shape(d.var), 1 << (bits - 1), key=bits)
    note = f"fixed.divide(fraction={fraction}, bits={bits}) at {t.where}"
    b.signed_range_check(y, bits, y, note)
    product = b.add(
        "multiply",
        sorted([d.var, y], key=lambda v: b.hashes[v]),
        b.shape(y),
        min(MAX_BOUND, 2 * b.bounds[numerator] + b.bounds[d.var]),
    )
    rem = b.affine([(numerator, 1), (product, -1)], bound=b.bounds[d.var])
    b.range_check(rem, width, y, note)
    room = b.affine([(d.var, 1), (rem, -1)], -1, bound=b.bounds[d.var])
    b.range_check(room, width, y, note + " (the denominator must be positive)")
    return [Sym(y, fraction)]


@primitive("zk_rsqrt")
def _rsqrt(t: Tracer, eqn, x):
    """y = floor(2^f / sqrt(x)): x y^2 <= 2^k < x (y + 1)^2 with k = 2 f + fraction of x, y >= 0."""
    fraction, bits = eqn.params["fraction"], eqn.params["bits"]
    b, shape = t.builder, t.builder.shape(x.var)
    k = 2 * fraction + x.fraction
    width = t.bits_of(x.var)
    require_bits(t, bits)
    if k < 0:
        raise ScaleError(f"rsqrt to {fraction} fraction bits of {x.fraction}: too few", t.where)
    if k > 50:
        raise OverflowBoundError(
            f"rsqrt works with 2 * {fraction} + {x.fraction} = {k} bits and 50 are available; "
            "round its argument to fewer fraction bits",
            t.where,
        )
    if width + 2 * bits + 1 > FIELD_BITS:
        raise OverflowBoundError(
            f"rsqrt of a {width}-bit value with a {bits}-bit result may wrap; round its argument "
            "or lower `bits`",
            t.where,
        )
    y = b.add("rsqrt", [x.var], shape, (1 << bits) - 1, k, key=bits)
    note = f"fixed.rsqrt(fraction={fraction}, bits={bits}) at {t.where}"
    b.range_check(y, bits, y, note)
    target = 1 << k
    # x (y + 1)^2 - 2^k <= x (2 y + 1) <= 2 sqrt(x) 2^(k/2) + x.
    gap = 2 * int(np.ceil(np.sqrt(float(b.bounds[x.var]) * target))) + b.bounds[x.var]
    gap_bits = gap.bit_length()

    def times_x(var: int) -> int:
        pair = sorted([x.var, var], key=lambda v: b.hashes[v])
        return b.add("multiply", pair, shape, min(MAX_BOUND, target + gap))

    square = b.add("multiply", [y, y], shape, min(MAX_BOUND, 1 << (2 * bits)))
    below = times_x(square)
    next_square = b.affine([(square, 1), (y, 2)], 1, bound=min(MAX_BOUND, 1 << (2 * bits + 1)))
    above = times_x(next_square)
    b.range_check(b.affine([(below, -1)], target, bound=gap), gap_bits, y, note)
    over = b.affine([(above, 1)], -target - 1, bound=gap)
    b.range_check(over, gap_bits, y, note + " (its argument must be positive)")
    return [Sym(y, fraction)]


def onehot_of_bits(t: Tracer, bits: list[int], n: int, owner: int, note: str) -> int:
    """onehot of an index below n given by committed bits, low first; the index is range-checked."""
    b = t.builder
    for bit in bits:
        b.notes[bit] = note
        b.lookup(range_table(1), [bit], bit)
    if n != 1 << len(bits):
        room = b.affine([(bit, -(1 << i)) for i, bit in enumerate(bits)], n - 1, bound=n - 1)
        b.range_check(room, len(bits), owner, note + f" (index below {n})")
    return b.add("onehot", bits, (*b.shape(bits[0]), n), 1, n)


@primitive("zk_onehot")
def _onehot(t: Tracer, eqn, index):
    """[index == j], the index tied to committed bits by index = sum 2^i bit_i."""
    n, b = eqn.params["n"], t.builder
    index = t.at_fraction(index, 0)
    shape = b.shape(index.var)
    count = (n - 1).bit_length()
    if n == 1:
        only = b.alias(b.affine([(index.var, -1)], 1, bound=1 + b.bounds[index.var]))
        b.require_zero(index.var, only)
        return [Sym(b.reshape(only, (*shape, 1)), 0)]
    bits = [b.add("limb", [index.var], shape, 1, i, 1, key=n) for i in range(count)]
    note = f"fixed.onehot(n={n}) at {t.where}"
    terms = [(index.var, 1)] + [(bit, -(1 << i)) for i, bit in enumerate(bits)]
    relation = b.affine(terms, bound=b.bounds[index.var] + (1 << count))
    b.notes[relation] = note + ": the index is not below n"
    for bit in bits:
        b.require_zero(relation, bit)
    if n != 1 << count:
        for bit in bits:
            onehot_of_bits(t, bits, n, bit, note)
    return [Sym(onehot_of_bits(t, bits, n, bits[0], note), 0)]


def maximum(t: Tracer, x: Sym, bits: int, note: str) -> Sym:
    """m over the last axis: m - x_j in [0, 2^bits) for all j, and 0 at an index given by bits."""
    b = t.builder
    require_bits(t, bits, least=0)  # at 64, any difference would be in range mod p
    shape = b.shape(x.var)
    n, outer = shape[-1], shape[:-1]
    if n == 1:
        return Sym(b.reshape(x.var, outer), x.fraction)
    m = b.add("max", [x.var], outer, b.bounds[x.var], key=bits)
    spread = b.broadcast(m, shape, list(range(len(outer))))
    below = b.affine([(spread, 1), (x.var, -1)])
    b.range_check(below, bits, m, note)
    count = (n - 1).bit_length()
    index = [b.add("argmax_bit", [x.var], outer, 1, i, key=bits) for i in range(count)]
    chosen = onehot_of_bits(t, index, n, m, note)
    batch = [(a, a) for a in range(len(outer))]
    last = len(outer)
    picked = contract(t, Sym(chosen, 0), Sym(below, 0), batch, [(last, last)])
    b.require_zero(picked.var, m)
    return Sym(m, x.fraction)


@primitive("zk_max")
def _max(t: Tracer, eqn, x):
    bits = eqn.params["bits"]
    return [maximum(t, x, bits, f"fixed.max(bits={bits}) at {t.where}")]


@primitive("reduce_max", "reduce_min")
def _reduce(t: Tracer, eqn, x):
    """Over some axes, for differences as large as the values allow; -max(-x) is the least."""
    b, axes = t.builder, tuple(eqn.params["axes"])
    sign = 1 if eqn.primitive.name == "reduce_max" else -1
    shape = b.shape(x.var)
    kept = [a for a in range(len(shape)) if a not in axes]
    outer = tuple(shape[a] for a in kept)
    moved = b.transpose(b.affine([(x.var, sign)]), (*kept, *axes))
    joined = Sym(b.reshape(moved, (*outer, _count(shape, axes))), x.fraction)
    note = f"'{eqn.primitive.name}' at {t.where}"
    found = maximum(t, joined, t.bits_of(x.var) + 1, note)
    result = Sym(b.affine([(found.var, sign)]), found.fraction)
    dtype = eqn.outvars[0].aval.dtype.name
    # That it is one of the entries is a product of two relations, which bounds do not see.
    return [fitted(t, result, dtype) if dtype in DTYPE_RANGES else result]


def _count(shape, axes) -> int:
    return int(np.prod([shape[a] for a in axes], dtype=np.int64))
