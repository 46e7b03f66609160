"""Proving rules, one file a family of primitives. Importing this package registers all of them."""

from zkjax.program.rules import (
    arithmetic,
    branches,
    comparison,
    contraction,
    devices,
    division,
    elsewhere,
    fixed,
    indexing,
    indices,
    replaced,
    running,
    scan,
    shapes,
    windows,
)

__all__ = [
    "arithmetic",
    "branches",
    "comparison",
    "contraction",
    "devices",
    "division",
    "elsewhere",
    "fixed",
    "indexing",
    "indices",
    "replaced",
    "running",
    "scan",
    "shapes",
    "windows",
]
