"""What ``zkjax.fixed`` has in another form: functions that are not exact, and what uses them."""

from __future__ import annotations

from zkjax.program.hints import hint


def _tabulated(name: str, *names: str) -> None:
    hint(f"use zkjax.fixed.{name}, which is a table lookup", *names)


_tabulated("sigmoid(x[..., n:]) times x[..., :n]", "jax.nn.glu", "nn.glu")
hint(
    "tabulate it: zkjax.fixed.table(a NumPy version of it, fraction, out_fraction, derivative=...)",
    "jax.nn.elu",
    "jax.nn.selu",
    "jax.nn.celu",
    "jax.nn.log_sigmoid",
    "jax.nn.softplus",
    "jax.nn.mish",
    "jax.nn.squareplus",
    "jax.nn.soft_sign",
    "jax.nn.hard_sigmoid",
    "jax.nn.hard_silu",
    "jax.nn.hard_swish",
    "jax.scipy.special.erf",
    "jax.scipy.special.logit",
    "jax.scipy.special.xlogy",
    "jnp.logaddexp",
    "jnp.sinc",
    "optax.sigmoid_binary_cross_entropy",
)
_tabulated("exp (for x <= 0) or zkjax.fixed.softmax", "exp", "jnp.exp", "lax.exp")
_tabulated("log", "log", "jnp.log", "lax.log")
_tabulated("tanh", "tanh", "jnp.tanh", "nn.tanh")
_tabulated("sigmoid", "logistic", "jax.nn.sigmoid", "jax.scipy.special.expit", "nn.sigmoid")
_tabulated("silu", "jax.nn.silu", "jax.nn.swish", "nn.silu", "nn.swish")
_tabulated("gelu", "jax.nn.gelu", "nn.gelu")
hint(
    "use zkjax.fixed.softmax(x, mask)",
    "jax.nn.softmax",
    "nn.softmax",
    "jax.scipy.special.softmax",
    "nn.dot_product_attention",
    "nn.dot_product_attention_weights",
    "jax.nn.dot_product_attention",
    "nn.MultiHeadDotProductAttention",
)
hint(
    "use zkjax.fixed.cross_entropy(logits, target), or zkjax.fixed.log of zkjax.fixed.softmax",
    "jax.nn.log_softmax",
    "nn.log_softmax",
    "jax.nn.logsumexp",
    "jax.scipy.special.logsumexp",
    "optax.softmax_cross_entropy",
    "optax.softmax_cross_entropy_with_integer_labels",
)
hint("use zkjax.fixed.rsqrt", "rsqrt", "lax.rsqrt")
hint(
    "multiply x by zkjax.fixed.rsqrt(x, fraction=...), for sqrt(x) = x / sqrt(x)",
    "sqrt",
    "jnp.sqrt",
    "jnp.hypot",
    "jnp.linalg.norm",
    "optax.global_norm",
    "optax.safe_norm",
)
hint(
    "tables of cos and sin by position are constants, so compute them outside the function; of "
    "data, zkjax.fixed.table(np.sin, fraction, out_fraction)",
    "cos",
    "sin",
    "jnp.cos",
    "jnp.sin",
)
hint(
    "zkjax.models.optimizers.scale_by_adam is the same in fixed point, and make_optimizer there "
    "makes the chain of adamw (docs/optimizers.md)",
    "optax.scale_by_adam",
)
hint(
    "zkjax.models.optimizers.clip_by_global_norm is the same in fixed point; optax.clip, by a "
    "power of two, goes through as it is",
    "optax.clip_by_global_norm",
    "optax.clip_by_block_rms",
    "optax.adaptive_grad_clip",
    "optax.unitwise_clip",
    "optax.normalize_by_update_norm",
)
hint(
    "use zkjax.models.optimizers.scale_by_adam, or write the update with zkjax.fixed.sqrt, "
    "zkjax.fixed.divide and zkjax.fixed.round after each product; SGD, momentum, sign_sgd and lion "
    "of optax go through as they are, with binary factors (docs/optimizers.md)",
    "optax.scale_by_rms",
    "optax.scale_by_stddev",
    "optax.scale_by_adagrad",
    "optax.scale_by_rss",
    "optax.scale_by_adamax",
    "optax.scale_by_amsgrad",
    "optax.scale_by_adadelta",
    "optax.scale_by_adan",
    "optax.scale_by_belief",
    "optax.scale_by_factored_rms",
    "optax.scale_by_lamb",
    "optax.scale_by_novograd",
    "optax.scale_by_param_block_norm",
    "optax.scale_by_param_block_rms",
    "optax.scale_by_radam",
    "optax.scale_by_rprop",
    "optax.scale_by_sm3",
    "optax.scale_by_trust_ratio",
    "optax.scale_by_yogi",
    "optax.scale_by_distance_over_gradients",
)
hint(
    "keep the count in a uint16 and hand state.count.astype(jnp.int32) in; what depends on it, a "
    "rate or a correction, is computed outside and passed in as a public array "
    "(zkjax.models.hyperparameters)",
    "optax.scale_by_schedule",
    "optax.ema",
    "optax.scale_by_lion",
    "optax.apply_every",
    "optax.apply_if_finite",
    "optax.conditionally_mask",
    "optax.inject_hyperparams",
)
hint(
    "use zkjax.fixed.round(x, 0), which rounds ties up",
    "round",
    "round_nearest_even",
    "jnp.round",
    "jnp.rint",
    "jnp.around",
    "lax.round",
)
