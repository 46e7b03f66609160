"""What to write instead of what cannot be proved, by primitive and by the function a user calls.

Hints are registered beside the rules that they concern.
"""

from __future__ import annotations

HINTS: dict[str, str] = {}
GENERAL = (
    "a function of one number can be tabulated: zkjax.fixed.table(function, fraction, "
    "out_fraction); docs/functions.md lists what is proved"
)
FORWARD = (
    "forward-mode derivatives (jax.jvp, linearize, jacfwd, hessian) do not go through functions of "
    "zkjax.fixed that round their cotangents; use jax.grad, jax.vjp or jax.jacrev"
)


def hint(sentence: str, *names: str) -> None:
    """Register what to write instead. A name is a primitive (``exp``) or, with a dot, a function as
    users write it (``jnp.interp``).
    """
    for name in names:
        if HINTS.setdefault(name, sentence) != sentence:
            raise RuntimeError(f"internal: two hints for {name}")


def hint_for(function: str, primitive: str) -> str:
    """The hint for a function if there is one, else for the primitive that it uses."""
    return HINTS.get(function) or HINTS.get(primitive) or GENERAL
