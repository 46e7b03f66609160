"""Where committed tensors live in a tableau.

Every tensor is padded to a power of two an axis. A tensor of at least W elements is a slot of its
own; smaller ones are packed, largest first at aligned offsets, into bundles of exactly W elements,
each a slot too. So every slot has 2^k >= W elements, is stored as consecutive rows, and a claim at
a point r on a slot is <eq(r_rows) (x) eq(r_row), V> with the same last log W coordinates for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from zkjax.argument.code import Code
from zkjax.field import goldilocks as gl
from zkjax.field.multilinear import log2_ceil

Shape = tuple[int, ...]


def axis_logs(shape: Shape) -> tuple[int, ...]:
    """log2 of the padded length of each axis."""
    return tuple(log2_ceil(n) for n in shape)


def padded_log(shape: Shape) -> int:
    return sum(axis_logs(shape))


def pad_values(values: np.ndarray) -> np.ndarray:
    """Zero-pad every axis to a power of two."""
    target = tuple(1 << log for log in axis_logs(values.shape))
    if target == values.shape:
        return values
    return np.pad(values, [(0, t - n) for t, n in zip(target, values.shape, strict=True)])


@dataclass(frozen=True)
class Slot:
    """2^log elements from row ``row``; ``rows`` of them are stored, later ones are zero.

    ``tensors`` lists (tensor, offset inside the slot); a slot with one tensor at offset 0 and
    2^log >= W elements holds it alone.
    """

    row: int
    rows: int
    log: int
    tensors: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Layout:
    """The slots of a tableau for tensors of the given shapes under a code."""

    shapes: tuple[Shape, ...]
    code: Code

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        w = self.code.log_row
        slots: list[Slot] = []
        row = 0
        small: list[int] = []
        for index, shape in enumerate(self.shapes):
            log = padded_log(shape)
            if log < w:
                small.append(index)
                continue
            # Only the leading axis can leave whole rows empty.
            used = shape[0] << (log - axis_logs(shape)[0])
            rows = -(-used // self.code.row)
            slots.append(Slot(row, rows, log, ((index, 0),)))
            row += rows
        bundle: list[tuple[int, int]] = []
        offset = 0
        for index in sorted(small, key=lambda i: (-padded_log(self.shapes[i]), i)):
            size = 1 << padded_log(self.shapes[index])
            if offset + size > self.code.row:
                slots.append(Slot(row, 1, w, tuple(bundle)))
                row, bundle, offset = row + 1, [], 0
            bundle.append((index, offset))
            offset += size
        if bundle:
            slots.append(Slot(row, 1, w, tuple(bundle)))
        return tuple(slots)

    @cached_property
    def rows(self) -> int:
        last = self.slots[-1]
        return last.row + last.rows

    @cached_property
    def elements(self) -> int:
        """Committed field elements, blinding included."""
        return self.rows * self.code.dimension

    def slot_values(self, slot: Slot, tensors: Sequence[np.ndarray]) -> np.ndarray:
        """(2^log,) float64: the contents of one slot."""
        if len(slot.tensors) == 1 and padded_log(self.shapes[slot.tensors[0][0]]) == slot.log:
            return pad_values(tensors[slot.tensors[0][0]]).reshape(-1)
        flat = np.zeros(1 << slot.log)
        for index, offset in slot.tensors:
            part = pad_values(tensors[index]).reshape(-1)
            flat[offset : offset + part.size] = part
        return flat

    def matrix(self, tensors: Sequence[np.ndarray]) -> np.ndarray:
        """(rows, W) field elements: all slots, from float64 integer tensors."""
        out = np.zeros((self.rows, self.code.row), dtype=np.uint64)
        for slot in self.slots:
            flat = self.slot_values(slot, tensors)[: slot.rows * self.code.row]
            out[slot.row : slot.row + slot.rows] = gl.from_signed(flat).reshape(slot.rows, -1)
        return out


def choose_log_row(elements: int) -> int:
    """log2 of the row length that balances opened columns against responses (least proof size)."""
    return min(15, max(6, round((np.log2(max(elements, 1)) + 4.6) / 2)))
