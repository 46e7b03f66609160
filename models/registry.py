"""The model of a configuration."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from flax import nnx

from zkjax.errors import OptionError
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


def _names(parameters: Any) -> set[str]:
    name = partial(jax.tree_util.keystr, simple=True, separator=".")
    return {name(path) for path, _ in jax.tree_util.tree_flatten_with_path(parameters)[0]}


def bind(config: ModelConfig, parameters: Any) -> Decoder:
    """The model with these parameters, a nested dict of arrays.

    Raises:
      OptionError: names one that is missing, or that the model has not.
    """
    graph, state = nnx.split(nnx.eval_shape(lambda: make_model(config, nnx.Rngs(0))))
    wanted, found = _names(nnx.to_pure_dict(state)), _names(parameters)
    for name in sorted(wanted ^ found):
        which = "is missing in" if name in wanted else "is too much in"
        raise OptionError(f"{name} {which} the weights of the base model")
    nnx.replace_by_pure_dict(state, parameters)
    return nnx.merge(graph, state)
