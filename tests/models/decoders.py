"""A LLaMA and a GPT-2 in NumPy, float64, from files of Hugging Face: what adapters are tried on."""

from __future__ import annotations

import numpy as np

from zkjax.models.config import Gpt2Config, LlamaConfig, ModelConfig

State = dict[str, np.ndarray]

LLAMA = LlamaConfig(
    vocab_size=24,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    rms_norm_eps=2.0**-14,
    tie_word_embeddings=False,
)
GPT2 = Gpt2Config(vocab_size=24, n_positions=16, n_embd=16, n_layer=2, n_head=2, n_inner=24)
BASES: dict[str, ModelConfig] = {"llama": LLAMA, "gpt2": GPT2}


def merged(config: ModelConfig, state: State, adapter) -> State:
    """The weights of a base model with scale A B in them."""
    weights, layers, scale = adapter
    state = {name: value.astype(np.float64) for name, value in state.items()}
    for target, parts in weights.items():
        for i, layer in enumerate(layers):
            delta = scale * (parts["a"][i] @ parts["b"][i])
            name = f"{config.module_path(layer, target)}.weight"
            state[name] += delta if config is GPT2 else delta.T  # Conv1D is (inputs, outputs)
    return state


def logits(config: ModelConfig, state: State, tokens: np.ndarray) -> np.ndarray:
    """(positions, vocabulary), of one sequence."""
    return (_gpt2 if config is GPT2 else _llama)(config, state, tokens)


def _attend(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Causal attention of (heads, positions, head size)."""
    scores = q @ k.swapaxes(1, 2) * q.shape[-1] ** -0.5
    scores = np.where(np.tri(q.shape[1], dtype=bool), scores, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True) @ v


def _heads(x: np.ndarray, size: int) -> np.ndarray:
    return x.reshape(len(x), -1, size).swapaxes(0, 1)


def _llama(config: LlamaConfig, state: State, tokens: np.ndarray) -> np.ndarray:
    size, half = config.head_dim, config.head_dim // 2
    angles = np.arange(len(tokens))[:, None] * config.rope_theta ** -(np.arange(half) / half)
    turn = np.exp(1j * angles)

    def norm(x, name):
        mean = np.mean(x**2, -1, keepdims=True)
        return x / np.sqrt(mean + config.rms_norm_eps) * state[f"{name}.weight"]

    def rotated(x):
        z = (x[..., :half] + 1j * x[..., half:]) * turn
        return np.concatenate([z.real, z.imag], -1)

    x = state["model.embed_tokens.weight"][tokens]
    for layer in range(config.num_hidden_layers):

        def linear(target, x, layer=layer):
            return x @ state[f"{config.module_path(layer, target)}.weight"].T

        block = config.block.format(layer)
        h = norm(x, f"{block}.input_layernorm")
        q, k, v = (_heads(linear(t, h), size) for t in ("q_proj", "k_proj", "v_proj"))
        shared = config.num_attention_heads // config.num_key_value_heads
        k, v = (np.repeat(y, shared, axis=0) for y in (rotated(k), v))
        mixed = _attend(rotated(q), k, v).swapaxes(0, 1).reshape(len(tokens), -1)
        x = x + linear("o_proj", mixed)
        h = norm(x, f"{block}.post_attention_layernorm")
        gate = linear("gate_proj", h)
        x = x + linear("down_proj", gate / (1 + np.exp(-gate)) * linear("up_proj", h))
    return norm(x, "model.norm") @ state["lm_head.weight"].T


def _gpt2(config: Gpt2Config, state: State, tokens: np.ndarray) -> np.ndarray:
    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + config.layer_norm_epsilon)
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    x = state["transformer.wte.weight"][tokens] + state["transformer.wpe.weight"][: len(tokens)]
    for layer in range(config.num_hidden_layers):

        def linear(target, x, layer=layer):
            path = config.module_path(layer, target)
            return x @ state[f"{path}.weight"] + state[f"{path}.bias"]

        block = config.block.format(layer)
        qkv = np.split(linear("c_attn", norm(x, f"{block}.ln_1")), 3, axis=-1)
        mixed = _attend(*(_heads(y, config.head_dim) for y in qkv))
        x = x + linear("attn_c_proj", mixed.swapaxes(0, 1).reshape(len(tokens), -1))
        h = linear("c_fc", norm(x, f"{block}.ln_2"))
        gelu = h * (1 + np.tanh((2 / np.pi) ** 0.5 * (h + 0.044715 * h**3))) / 2
        x = x + linear("mlp_c_proj", gelu)
    return norm(x, "transformer.ln_f") @ state["transformer.wte.weight"].T
