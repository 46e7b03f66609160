"""The picture of the demo: it shows learning on text that no step sees, in both arithmetics."""

from __future__ import annotations

import numpy as np

from zkjax.models.data import documentation
from zkjax.proofs import demo


def test_held_out_text_is_not_trained_on():
    trained, held = demo.split_text()
    assert np.array_equal(np.concatenate([trained, held]), documentation())
    assert len(held) > 10 * demo.HELD_OUT * demo.BATCH * demo.LENGTH


def test_curves_show_learning_and_what_fixed_point_changes(tmp_path):
    run, base, adapter, source = demo.demo_inputs()
    curves = demo.loss_curves(run, base, adapter, [next(source) for _ in range(8)])
    fixed, exact = np.array(curves["fixed"]), np.array(curves["float64"])
    assert fixed.shape == exact.shape == (9,)
    assert fixed[-1] < fixed[0] - 0.005 and exact[-1] < exact[0] - 0.005
    difference = np.abs(fixed - exact)
    assert 0 < difference.max() < 0.005
    demo.plot_losses(curves, 1, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
