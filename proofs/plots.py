"""Pictures of a calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from zkjax.proofs.calibration import Calibration
from zkjax.proofs.comparison import Comparison


def plot_calibration(calibration: Calibration, comparison: Comparison, path: Path) -> None:
    """Write a picture: the losses of both arithmetics, and the bits of every site."""
    from matplotlib.figure import Figure  # pyplot would change how a notebook shows pictures

    names = sorted(calibration.sites)
    figure = Figure(figsize=(9, 1.5 + 0.19 * len(names)), layout="constrained")
    losses, bits = figure.subplots(
        1,
        2,
    )
    pairs = np.array(comparison.losses)
    losses.plot(pairs[:, 0], pairs[:, 1], "o")
    ends = [pairs.min() - 0.05, pairs.max() + 0.05]
    losses.plot(ends, ends, linewidth=0.8, color="0.6")
    gap = float(np.abs(pairs[:, 0] - pairs[:, 1]).max())
    losses.set(
        xlabel="loss in float32",
        ylabel="loss in fixed point",
        title=f"sequences; largest difference {gap:.4f}",
    )
    rows = np.arange(len(names))
    for shift, way in ((-0.2, "forward"), (0.2, "backward")):
        forms = [getattr(calibration.sites[name], way) for name in names]
        # From the last fraction bit to the highest one, as powers of two.
        lowest = [-f.fraction for f in forms]
        bits.barh(rows + shift, [f.bits for f in forms], 0.38, lowest, label=way)
    bits.set_yticks(rows, names, fontsize=7)
    bits.invert_yaxis()
    bits.set(xlabel="powers of two that a format holds", title="formats")
    bits.legend(fontsize=8)
    figure.savefig(path, dpi=120)
