"""Zero-knowledge proofs as a JAX transformation.

``prove``, ``verify``, ``seal``, ``trace`` and ``provable`` are the public functions; ``fixed``
holds
the numerics that provable programs are written with. Importing this package imports nothing else:
each name is loaded when first used, so verification works in a process without JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zkjax import fixed
    from zkjax._compat import enable_kernel_cache
    from zkjax.errors import VerificationError, ZkjaxError
    from zkjax.program.statement import Statement
    from zkjax.program.trace import Private, trace
    from zkjax.proof import Claims, Commitment, Proof
    from zkjax.provable import provable
    from zkjax.prove import prove
    from zkjax.seal import seal
    from zkjax.sealed import Sealed
    from zkjax.verify import verify

__version__ = "0.1.0"

_HOMES = {
    "Claims": "zkjax.proof",
    "Commitment": "zkjax.proof",
    "Private": "zkjax.program.trace",
    "Proof": "zkjax.proof",
    "Sealed": "zkjax.sealed",
    "Statement": "zkjax.program.statement",
    "enable_kernel_cache": "zkjax._compat",
    "VerificationError": "zkjax.errors",
    "check": "zkjax.estimate",
    "ZkjaxError": "zkjax.errors",
    "provable": "zkjax.provable",
    "prove": "zkjax.prove",
    "seal": "zkjax.seal",
    "trace": "zkjax.program.trace",
    "verify": "zkjax.verify",
}

__all__ = [
    "Claims",
    "Commitment",
    "Private",
    "Proof",
    "Sealed",
    "Statement",
    "VerificationError",
    "ZkjaxError",
    "check",
    "enable_kernel_cache",
    "fixed",
    "provable",
    "prove",
    "seal",
    "trace",
    "verify",
]


def __getattr__(name: str):
    if name == "fixed":
        return importlib.import_module("zkjax.fixed")
    if name not in _HOMES:
        raise AttributeError(f"module 'zkjax' has no attribute {name!r}")
    # Importing zkjax.prove binds the submodule here instead; it is callable (see _callable).
    return getattr(importlib.import_module(_HOMES[name]), name)
