"""A whole LoRA step of every published LLaMA shape is traced, by shapes alone."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx

import zkjax
from zkjax.models.adapter import init_adapter
from zkjax.models.config import TARGETS, LlamaConfig, LoraConfig, RopeScaling
from zkjax.models.llama import Llama
from zkjax.proofs.finetune import FineTuning, make_step

# name: (vocabulary, width, ff, layers, heads, heads of keys, eps, theta, tied)
SHAPES = {
    "stories15M": (32000, 288, 768, 6, 6, 6, 1e-5, 1e4, True),
    "SmolLM2-135M": (49152, 576, 1536, 30, 9, 3, 1e-5, 1e5, True),
    "SmolLM2-360M": (49152, 960, 2560, 32, 15, 5, 1e-5, 1e5, True),
    "TinyLlama-1.1B": (32000, 2048, 5632, 22, 32, 4, 1e-5, 1e4, False),
    "Llama-3.2-1B": (128256, 2048, 8192, 16, 32, 8, 1e-5, 5e5, True),
    "Llama-3.2-3B": (128256, 3072, 8192, 28, 24, 8, 1e-5, 5e5, True),
    "Llama-2-7B": (32000, 4096, 11008, 32, 32, 32, 1e-5, 1e4, False),
    "Llama-3.1-8B": (128256, 4096, 14336, 32, 32, 8, 1e-5, 5e5, False),
}


def shape(name: str) -> LlamaConfig:
    vocabulary, width, ff, layers, heads, kv, eps, theta, tied = SHAPES[name]
    scaling = RopeScaling() if "Llama-3" in name else None
    return LlamaConfig(vocabulary, width, ff, layers, heads, kv, eps, theta, scaling, tied)


def step_arguments(run: FineTuning, batch: int, length: int):
    """Base, adapter, tokens and rate of a step, as shapes."""
    parameters = nnx.eval_shape(
        lambda: nnx.to_pure_dict(nnx.state(Llama(run.model, rngs=nnx.Rngs(0))))
    )
    adapter = jax.eval_shape(lambda: init_adapter(run.model, run.lora, jax.random.key(0)))

    def of(tree, dtype):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), tree)

    tokens = jax.ShapeDtypeStruct((batch, length + 1), np.int32)
    return of(parameters, np.int16), of(adapter, np.int32), tokens, np.uint16(1)


@pytest.mark.parametrize("name", SHAPES)
def test_a_step_with_all_seven_targets_traces(name):
    """Batch 3, sequence 12 and alpha / r = 16 / 3: no factor of a mean or scale is dyadic."""
    config = shape(name)
    run = FineTuning(model=config, lora=LoraConfig(r=3, alpha=16.0, targets=TARGETS))
    base, adapter, tokens, rate = step_arguments(run, 3, 12)
    statement = zkjax.trace(make_step(run), sealed_outputs=(True, False))(
        base, zkjax.Private(adapter), zkjax.Private(tokens), rate
    )
    program = statement.program
    assert any(np.prod(program.shape(v)) == 36 * config.vocab_size for v in program.advice)
    widest = max(program.shape(v)[-1] for v in program.advice if program.shape(v))
    assert widest == max(config.vocab_size, config.intermediate_size)
