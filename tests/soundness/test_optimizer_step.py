"""Proved steps of optimizers on a small LLaMA: a chain of two, and lies about AdamW's numbers."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest

import zkjax
from soundness.cheating import bump, prove, rejected, trace_call, variables
from soundness.programs import training
from zkjax.errors import OptionError, VerificationError
from zkjax.models.hyperparameters import OptimizerConfig, hyperparameters
from zkjax.proof import Proof
from zkjax.proofs.finetune import FineTuning, make_step
from zkjax.verify import verify_statement

SEALED = (True, True, False)
ADAMW = OptimizerConfig("adamw", 0.01, weight_decay=0.1, max_grad_norm=0.125)
OTHERS = {
    "momentum": OptimizerConfig("sgd", 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "accumulated": OptimizerConfig("sgd", 0.5, gradient_accumulation_steps=2),
}


@cache
def honest():
    """(traced, arguments, outputs, proof) of a true step of AdamW from a state that is not 0."""
    step, (base, adapter, state, tokens, hyper) = training(ADAMW)
    for _ in range(2):
        adapter, state, _ = zkjax.provable(step)(base, adapter, state, tokens, hyper)
    args = *(zkjax.seal(x, openings=1) for x in (base, adapter, state, tokens)), hyper
    traced = trace_call(step, args, SEALED)
    outputs, proof = prove(traced, args)
    return traced, args, outputs, proof


def output_variable(traced, name: str) -> int:
    return next(p.var for p in traced.statement.program.outputs if name in p.name)


def test_the_honest_step():
    traced, args, (new, state, _), proof = honest()
    verify_statement(traced.statement, proof)
    old = args[2].tree[1]
    assert old.count == 2 and state.tree[1].count == 3
    for before, after in ((args[1].tree, new.tree), (old.mu, state.tree[1].mu)):
        pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
        assert all(np.any(a != b) for a, b in pairs)


@pytest.mark.parametrize("leaf", [".mu", ".coarse", ".fine", ".count", "[0]"])
def test_a_changed_state(leaf):
    """A moment, the count or a parameter that is sealed at the end is off by one unit."""
    traced, args, _, _ = honest()
    _, proof = prove(traced, args, {output_variable(traced, leaf): bump()})
    rejected(traced, proof, "linear test")


@pytest.mark.parametrize("leaf", [".mu", ".fine"])
def test_a_changed_old_state(leaf):
    """The step starts from a moment that is not the committed one."""
    traced, args, _, _ = honest()
    old = next(p.var for p in traced.statement.program.inputs if leaf in p.name)
    _, proof = prove(traced, args, {old: bump()})
    rejected(traced, proof, "linear test")


def test_a_changed_row_or_ratio():
    """The row of a root or of the clip factor, or the ratio of the moments, is the next one."""
    traced, args, _, _ = honest()
    program, found = traced.statement.program, {}
    for var in variables(traced, "locate"):
        found.setdefault(program.tables[program.ops[var].params[0]].name[:20], var)
    wanted = [v for name, v in found.items() if name.startswith(("square root of", "clip by"))]
    assert len(wanted) == 3  # of both parts of the second moment, and of the norm
    for var in (*wanted, variables(traced, "divide")[-1]):
        _, proof = prove(traced, args, {var: bump()})
        rejected(traced, proof)


def test_a_changed_update():
    """The last roundings are those of updates."""
    traced, args, _, _ = honest()
    updates = variables(traced, "round")[-2:]
    assert len(updates) == 2
    for var in updates:
        _, proof = prove(traced, args, {var: bump()})
        rejected(traced, proof, "linear test")


@pytest.mark.parametrize("name", ["bias_correction", "eps"])
def test_a_witness_of_other_hyperparameters(name):
    """The claimed numbers are those of the step, it is computed with others."""
    traced, args, _, _ = honest()
    var = next(p.var for p in traced.statement.program.inputs if name in p.name)
    _, proof = prove(traced, args, {var: bump()})
    rejected(traced, proof, "linear test")


def test_hyperparameters_of_another_step():
    """Whoever verifies computes them again: those of the step after are not what was proved."""
    traced, args, _, proof = honest()
    step, commitments = training(ADAMW)[0], [a.commitment for a in args[:-1]]
    verify = zkjax.verify(step, sealed_outputs=SEALED)
    verify(*commitments, hyperparameters(ADAMW, 0), proof=proof)
    with pytest.raises(VerificationError, match="claims: the public input 4"):
        verify(*commitments, hyperparameters(ADAMW, 1), proof=proof)
    numbers = {i: x + x.dtype.type(1) for i, x in proof.claims.inputs.items()}
    assert len(numbers) == 3
    changed = Proof(replace(proof.claims, inputs=numbers), proof.body)
    rejected(traced, changed, "merkle path")


def test_two_steps_chain_by_their_commitments():
    """Adapter and state of one proof are the sealed inputs of the next."""
    step, (base, adapter, state, tokens, _) = training(ADAMW)
    sealed_base = zkjax.seal(base, openings=2)
    current = [zkjax.seal(adapter, openings=1), zkjax.seal(state, openings=1)]
    run, seen = zkjax.prove(step, sealed_outputs=SEALED), []
    for count in range(2):
        text = zkjax.seal(tokens, openings=1)
        before = [x.commitment for x in current]
        hyper = hyperparameters(ADAMW, count)
        (*current, _), proof = run(sealed_base, *current, text, hyper)
        zkjax.verify(step, sealed_outputs=SEALED)(
            sealed_base.commitment, *before, text.commitment, hyper, proof=proof
        )
        seen.append(proof.claims)
    first, second = seen
    taken = [c.digest for c in second.input_commitments]
    assert [taken.index(c.digest) for c in first.output_commitments] == [1, 2]
    assert current[1].tree[1].count == 2


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.slow
def test_other_optimizers_are_proved(name):
    config = OTHERS[name]
    step, (base, adapter, state, tokens, hyper) = training(config)
    if config.gradient_accumulation_steps > 1:
        tokens = np.stack([tokens, (tokens + 3) % 16])
    if jax.tree.leaves(state):
        state = zkjax.seal(state, openings=1)
    args = *(zkjax.seal(x, openings=1) for x in (base, adapter)), state, zkjax.seal(tokens), hyper
    (new, *_), proof = zkjax.prove(step, sealed_outputs=SEALED)(*args)
    verify_statement(zkjax.trace(step, sealed_outputs=SEALED)(*args), proof)
    expected, *_ = zkjax.provable(step)(*args)
    assert all(map(np.array_equal, jax.tree.leaves(new.tree), jax.tree.leaves(expected)))


def test_micro_batches_give_the_mean_gradient():
    """Of equal batches, the step of one; of two, the losses' mean; other shapes are refused."""
    config = OptimizerConfig("sgd", 0.5)
    step, (base, adapter, state, tokens, hyper) = training(config)
    both = training(replace(config, gradient_accumulation_steps=2))[0]
    other = (tokens + 5) % 16
    run = zkjax.provable(both)
    new, _, loss = zkjax.provable(step)(base, adapter, state, tokens, hyper)
    same, _, same_loss = run(base, adapter, state, np.stack([tokens, tokens]), hyper)
    assert abs(int(loss) - int(same_loss)) <= 1
    for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(same), strict=True):
        assert np.abs(a.astype(int) - b).max() <= 1
    new_other, _, loss_other = zkjax.provable(step)(base, adapter, state, other, hyper)
    mixed, _, mixed_loss = run(base, adapter, state, np.stack([tokens, other]), hyper)
    assert abs((int(loss) + int(loss_other)) / 2 - int(mixed_loss)) <= 1
    trees = map(jax.tree.leaves, (new, new_other, mixed))
    for a, b, c in zip(*trees, strict=True):
        assert np.abs((a.astype(int) + b) / 2 - c).max() <= 2
    with pytest.raises(OptionError, match=r"\(2, batch, length \+ 1\)"):
        run(base, adapter, state, tokens, hyper)


def test_a_step_in_floating_point_is_refused():
    from zkjax.models.numerics import Float

    with pytest.raises(OptionError, match="this run is in float"):
        make_step(FineTuning(numerics=Float()), ADAMW)
