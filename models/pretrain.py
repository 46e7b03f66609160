"""Train the small byte-level base model of the demo: ``python -m zkjax.models.pretrain OUT``.

Plain float32 training with optax on the standard library's sources. The result is shipped as
``checkpoints/demo.safetensors``, already rounded to 12 fraction bits, so that the model that is
loaded is exactly the model that is proved about. Weights are kept small by weight decay.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, traverse_util

from zkjax.models.config import TARGETS, LlamaConfig
from zkjax.models.data import batches, library_sources
from zkjax.models.decoder import mean_loss
from zkjax.models.llama import Llama

CHECKPOINT = Path(__file__).parent / "checkpoints" / "demo.safetensors"
WEIGHT_FRACTION = 12


def train(config: LlamaConfig, steps: int, batch: int = 32, length: int = 64, seed: int = 0) -> Any:
    """The parameters (pure dict of float32) after ``steps`` steps of AdamW."""
    graph, state = nnx.split(Llama(config, rngs=nnx.Rngs(seed)))
    schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, 200, steps, 1e-4)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.1))

    def loss_of(state, tokens):
        logits = nnx.merge(graph, state)(tokens[:, :-1])
        # Keep logits, attention scores and the residual stream inside the range that fixed point
        # gives them.
        spread = jnp.mean(jnp.square(jax.nn.logsumexp(logits, axis=-1)))
        layers = state["layers"]
        size = sum(jnp.sum(jnp.square(layers[name][...])) for name in TARGETS)
        loss = mean_loss(logits, tokens[:, 1:])
        return loss + 1e-4 * spread + 2e-4 * size, loss

    @jax.jit
    def step(state, opt_state, tokens):
        (_, loss), grads = jax.value_and_grad(loss_of, has_aux=True)(state, tokens)
        updates, opt_state = optimizer.update(grads, opt_state, state)
        return optax.apply_updates(state, updates), opt_state, loss

    opt_state = optimizer.init(state)
    source = batches(library_sources(), batch, length, seed)
    start = time.perf_counter()
    for i in range(steps):
        state, opt_state, loss = step(state, opt_state, next(source))
        if i % 250 == 0 or i == steps - 1:
            print(f"step {i:5d}  loss {float(loss):.4f}  {time.perf_counter() - start:.0f} s")
    return nnx.to_pure_dict(state)


def load_demo_base() -> dict[str, Any]:
    """The shipped base model as int16 weights with 12 fraction bits (nested dict)."""
    from safetensors.numpy import load_file

    return traverse_util.unflatten_dict(load_file(CHECKPOINT), sep=".")


def main() -> None:
    from safetensors.numpy import save_file

    out = Path(sys.argv[1]) if len(sys.argv) > 1 else CHECKPOINT
    parameters = train(LlamaConfig(), int(sys.argv[2]) if len(sys.argv) > 2 else 4000)
    stored = {
        name: np.floor(np.asarray(x, np.float64) * 2.0**WEIGHT_FRACTION + 0.5).astype(np.int16)
        for name, x in traverse_util.flatten_dict(parameters, sep=".").items()
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(stored, out)
    print(f"wrote {out}: {sum(x.size for x in stored.values())} weights")


if __name__ == "__main__":
    main()
