"""Which kernels the proof of a statement will use: known from its plan, before it starts."""

from __future__ import annotations

from zkjax.argument import blake2s, logup, merkle, rounds
from zkjax.argument.code import combine_use, encode_use
from zkjax.argument.kernels import Use
from zkjax.argument.layout import padded_log
from zkjax.protocol import Setup

# Factors of the products that each kind of sumcheck sums; None: as many as its degree.
FACTORS = {"product round": 3, "onehot round": None, "opening round": 2}


def needed(setup: Setup) -> list[Use]:
    """The kernels of everything after the commitments, each once."""
    kappa, program, plan = setup.profile.kappa, setup.program, setup.plan()
    found: list[Use] = []
    codes = [*setup.codes, setup.pad_code((plan.singles, plan.triples))]
    for code in codes:
        found += [encode_use(code.log_length), blake2s.hash_use(code.length, merkle.LEAF)]
    found.append(combine_use(2 * kappa))
    leaves, _ = setup.lookup_size()
    if leaves:
        found += logup.uses(max(leaves - 1, 1).bit_length(), kappa)
    # Tables of a level are side by side, so all elements together bound their size.
    of_ops = sum(1 << padded_log(program.shape(v)) for v in range(len(program.ops)))
    of_slots = sum(1 << slot.log for t in setup.tableaux for slot in t.layout.slots)
    for kind, degree in sorted(c for c in plan.challenges if c[0] in FACTORS):
        size = of_slots if kind == "opening round" else of_ops
        found += rounds.uses(FACTORS[kind] or degree, kappa, degree, size)
        if kind == "product round" and any(op.kind == "onehot" for op in program.ops):
            found += rounds.uses(2, kappa, degree, size)
    return list(dict.fromkeys(found))
