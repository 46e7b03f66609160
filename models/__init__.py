"""Flax models, LoRA, optimizers and data that run in float32 and in fixed point."""
