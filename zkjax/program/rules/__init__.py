"""Proving rules, one file a family of primitives. Importing this package registers all of them."""

from zkjax.program.rules import arithmetic, comparison, contraction, fixed, scan, shapes

__all__ = ["arithmetic", "comparison", "contraction", "fixed", "scan", "shapes"]
