"""Goldilocks, its extensions, transforms and multilinear helpers, for NumPy and JAX arrays."""
