"""LoRA on one's own Flax model, by rules over the paths of its layers.

``find`` says which linear layers the rules are about, ``init`` makes an adapter for them, and
``attach`` a copy of the model that has it, ready to be called. ``merge`` adds it to the weights;
``save`` and ``load`` keep it in a file. These are for NNX; ``zkjax.models.lora.linen`` has
``find``, ``bind`` and ``merge`` for Linen.
"""

from zkjax.models.lora.files import load, save
from zkjax.models.lora.nnx import attach, find, merge
from zkjax.models.lora.rules import Adapter, LoraRule, Target, init

__all__ = ["Adapter", "LoraRule", "Target", "attach", "find", "init", "load", "merge", "save"]
