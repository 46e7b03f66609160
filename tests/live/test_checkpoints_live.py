"""Directories as transformers writes them today: the same logits here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from zkjax.models.checkpoint import directory_digest, load_model, model_digest
from zkjax.models.registry import bind

SMALL = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MODELS = {
    "grouped queries, llama3, untied": LlamaConfig(
        **SMALL, rope_parameters=ROPE, tie_word_embeddings=False
    ),
    "heads of their own size, biases, tied": LlamaConfig(
        **SMALL, head_dim=24, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
    # the shape of distilgpt2
    "distilgpt2": GPT2Config(n_layer=6),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n == "distilgpt2" else n for n in MODELS],
)
def test_logits(name, tmp_path):
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(MODELS[name], attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases and norms are zeros and ones otherwise
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path, max_shard_size="100MB")
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokens = torch.randint(0, 300, (2, 48))
    with torch.no_grad():
        theirs = model(tokens).logits.numpy()
    config, parameters = load_model(tmp_path)
    ours = np.asarray(bind(config, parameters)(tokens.numpy()))
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()
    assert directory_digest(tmp_path) == (config, model_digest(config, parameters))
