"""Placement of tensors in tableaux: no overlap, alignment, and values where the slots say."""

from __future__ import annotations

import numpy as np
import pytest
from reference import P, ints

from zkjax.argument.code import Code
from zkjax.argument.layout import (
    Layout,
    axis_logs,
    choose_log_row,
    pad_values,
    padded_log,
)

CODE = Code(3, 5, 6)
CASES = [
    ((8,),),
    ((1,),),
    ((),),
    ((3, 5),),
    ((5, 4),),
    ((2, 3, 3),),
    ((3,), (2,), (1,), (4,), (2, 2)),
    ((5,), (5,), (7, 9), (1,), (), (3, 2), (16,)),
    ((64,), (33,), (9, 1)),
]


def test_axis_logs():
    assert axis_logs((1, 2, 3, 4, 5)) == (0, 1, 2, 2, 3)
    assert padded_log((1, 2, 3, 4, 5)) == 8 and padded_log(()) == 0


def test_pad_values():
    values = np.arange(1, 7).reshape(2, 3)
    assert pad_values(values).tolist() == [[1, 2, 3, 0], [4, 5, 6, 0]]
    assert pad_values(values[:, :2]).tolist() == [[1, 2], [4, 5]]


def filled(shapes):
    """Tensors whose entries are all different and not zero, signs alternating."""
    out, start = [], 1
    for shape in shapes:
        n = int(np.prod(shape, dtype=int))
        values = np.arange(start, start + n) * (-1) ** np.arange(n)
        out.append(values.astype(np.float64).reshape(shape))
        start += n
    return out


@pytest.mark.parametrize("shapes", CASES)
def test_every_tensor_has_one_aligned_place(shapes):
    layout = Layout(shapes, CODE)
    seen, row = [], 0
    for slot in layout.slots:
        assert slot.row == row and slot.log >= CODE.log_row
        assert 1 <= slot.rows <= 1 << (slot.log - CODE.log_row)
        end = 0
        for index, offset in slot.tensors:
            size = 1 << padded_log(shapes[index])
            assert offset % size == 0 and offset >= end
            end = offset + size
            seen.append(index)
        assert end <= 1 << slot.log
        row += slot.rows
    assert sorted(seen) == list(range(len(shapes)))
    assert layout.rows == row
    assert layout.elements == row * CODE.dimension


@pytest.mark.parametrize("shapes", CASES)
def test_matrix_holds_the_padded_tensors(shapes):
    layout, tensors = Layout(shapes, CODE), filled(shapes)
    matrix = layout.matrix(tensors)
    assert matrix.shape == (layout.rows, CODE.row)
    flat = ints(matrix)
    used = 0
    for slot in layout.slots:
        contents = flat[slot.row * CODE.row : (slot.row + slot.rows) * CODE.row]
        contents += [0] * ((1 << slot.log) - len(contents))
        assert ints(layout.slot_values(slot, tensors)) == [
            v - P if v > P // 2 else v for v in contents
        ]
        for index, offset in slot.tensors:
            expected = ints(pad_values(tensors[index]))
            place = contents[offset : offset + len(expected)]
            assert place == [v % P for v in expected]
            used += sum(v != 0 for v in place)
    assert used == sum(v != 0 for v in flat) == sum(t.size for t in tensors)


def test_rows_beyond_the_leading_axis_are_not_stored():
    layout = Layout(((5, 16),), CODE)
    (slot,) = layout.slots
    assert slot.log == 7 and slot.rows == layout.rows == 10


def test_small_tensors_share_rows():
    layout = Layout(((2,), (4,), (1,), (1,)), CODE)
    (slot,) = layout.slots
    assert slot.tensors == ((1, 0), (0, 4), (2, 6), (3, 7)) and layout.rows == 1


def test_choose_log_row():
    chosen = [choose_log_row(1 << k) for k in range(31)]
    assert chosen == sorted(chosen) and chosen[0] == 6 and chosen[-1] == 15
    assert choose_log_row(0) == 6
