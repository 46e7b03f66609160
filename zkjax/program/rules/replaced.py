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
    "write the update with zkjax.fixed.rsqrt(second_moment + epsilon, fraction=...) and "
    "zkjax.fixed.round after each product; plain SGD and momentum go through as they are",
    "optax.scale_by_adam",
    "optax.scale_by_rms",
    "optax.scale_by_adagrad",
    "optax.scale_by_rss",
    "optax.scale_by_amsgrad",
    "optax.scale_by_lamb",
    "optax.scale_by_trust_ratio",
    "optax.clip_by_global_norm",
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
