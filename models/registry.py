"""The model of a configuration."""

from __future__ import annotations

from typing import Any

from flax import nnx

from zkjax.models.config import Gpt2Config, LlamaConfig, ModelConfig
from zkjax.models.decoder import Decoder
from zkjax.models.gpt2 import Gpt2
from zkjax.models.llama import Llama

MODELS: dict[type, Any] = {LlamaConfig: Llama, Gpt2Config: Gpt2}


def make_model(config: ModelConfig, rngs: nnx.Rngs) -> Decoder:
    """A model with random parameters."""
    return MODELS[type(config)](config, rngs=rngs)


def parameter_shapes(config: ModelConfig) -> Any:
    """The parameters of a model as a nested dict of shapes."""
    return nnx.to_pure_dict(nnx.eval_shape(lambda: nnx.split(make_model(config, nnx.Rngs(0)))[1]))


def bind(config: ModelConfig, parameters: Any) -> Decoder:
    """The model with these parameters, a nested dict of arrays."""
    graph, state = nnx.split(nnx.eval_shape(lambda: make_model(config, nnx.Rngs(0))))
    nnx.replace_by_pure_dict(state, parameters)
    return nnx.merge(graph, state)
