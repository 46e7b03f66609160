"""The settings of a fine-tuning run, from flags or a TOML file, and what is public of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from zkjax._arguments import typed
from zkjax._marks import Between
from zkjax.errors import OptionError, StatementError
from zkjax.files import read_capped
from zkjax.models.config import (
    TARGETS,
    Checked,
    LoraConfig,
    ModelConfig,
    Positive,
    Size,
    config_from_json,
)
from zkjax.models.hyperparameters import OptimizerConfig

__all__ = ["Settings", "make_settings", "read_settings"]

VERSION = 1
MOST_SETTINGS = 1 << 20  # bytes
MOST_TOKENS, MOST_SCORES = 1 << 20, 1 << 24  # of a step, and of one head's attention
MOST_PARAMETERS = 1 << 28  # of an adapter
DEMO = "demo"
ALL = ("all",)
OPTIMIZER = tuple(f.name for f in dataclasses.fields(OptimizerConfig))


def require_targets(targets: Sequence[str]) -> None:
    """OptionError if there are none, or one twice."""
    if not targets or len(set(targets)) != len(targets):
        raise OptionError(f"targets = {list(targets)}; name linear layers, each of them once")


@dataclass(frozen=True)
class Settings(Checked):
    """Everything that a run can be told.

    Attributes:
      base: a model directory of Hugging Face, or "demo".
      data: a text file, or JSON lines (docs/data.md).
      held_out: another such file to compare losses on; a tenth of the rows of ``data`` if None.
      targets: linear layers that get LoRA, or "all".
      length: predictions a row.
      batch: rows a step, or a micro-batch where gradients are accumulated.
      packed: rows are filled with one document behind the other; by default text files are.
      public_base, public_data: what verifiers see; the other is private.
      formats: from ``zkjax calibrate``; chosen from the data if None.
      room: bits of range beyond what is usual, where formats are chosen.
      seed: of the first adapter and of the order of rows; drawn at random if None. Whoever knows
        it knows the first A.
      sessions: proofs that the last adapter's commitment can enter later.
      split: two proofs a step, of the gradient and of the optimizer, which take less memory than
        one; by default those of adapters of more than 2^18 parameters.
      The others are those of ``LoraConfig`` and ``OptimizerConfig``.
    """

    base: str
    data: str
    steps: Annotated[int, Between(1, 1 << 20)] = 10
    batch: Annotated[int, Between(1, 1 << 12)] = 1
    length: Annotated[int, Between(1, 1 << 14)] = 64
    held_out: str | None = None
    targets: Sequence[str] = ("q_proj", "v_proj")
    rank: Size = 8
    alpha: Positive = 16.0
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0
    momentum: float = 0.0
    nesterov: bool = False
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    gradient_accumulation_steps: int = 1
    packed: bool | None = None
    truncate: bool = False
    loss_on: Literal["completion", "all"] = "completion"
    public_base: bool = True
    public_data: bool = False
    profile: Literal["s100", "s128"] = "s100"
    formats: str | None = None
    room: Annotated[float, Between(0, 8)] = 1.0
    seed: Annotated[int, Between(0, 1 << 31)] | None = None
    sessions: Annotated[int, Between(0, 1 << 12)] = 8
    split: bool | None = None

    def __post_init__(self):
        super().__post_init__()
        require_targets(self.targets)
        _ = self.optimizer_config, self.lora  # OptionError

    @property
    def optimizer_config(self) -> OptimizerConfig:
        told = {name: getattr(self, name) for name in OPTIMIZER if hasattr(self, name)}
        return OptimizerConfig(**told, name=self.optimizer, total_steps=self.steps)

    @property
    def lora(self) -> LoraConfig:
        """Of a LLaMA, if all its linear layers are meant."""
        named = TARGETS if tuple(self.targets) == ALL else tuple(self.targets)
        return LoraConfig(r=self.rank, alpha=self.alpha, targets=named)

    def encode(self) -> bytes:
        return (json.dumps(dataclasses.asdict(self), indent=1) + "\n").encode()


@typed
def read_settings(path: str | Path, flags: Mapping[str, Any]) -> Settings:
    """The settings of a TOML file, with those of the command line (not None) before them."""
    try:
        told = tomllib.loads(read_capped(path, MOST_SETTINGS).decode())
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path} is no TOML file: {error}") from error
    return make_settings(told, flags, str(path))


@typed
def make_settings(
    told: Mapping[str, Any], flags: Mapping[str, Any], where: str = "settings"
) -> Settings:
    """Settings from both; OptionError names a key that is unknown or missing."""
    known = {f.name: f for f in dataclasses.fields(Settings)}
    given = {**told, **{name: value for name, value in flags.items() if value is not None}}
    if unknown := sorted(set(given) - set(known)):
        raise OptionError(f"{where}: {unknown[0]} is no setting; they are {', '.join(known)}")
    if type(given.get("targets")) is str:
        given["targets"] = [t for t in given["targets"].split(",") if t]
    for name in ("base", "data"):
        if name not in given:
            raise OptionError(f"{where}: {name} is missing")
    return Settings(**given)


@dataclass(frozen=True)
class Facts(Checked):
    """What is public of a run, and fixed before its first step.

    Attributes:
      model: digest of the base model, if that is public.
      config: its configuration (``models.config.config_to_json``).
      masked: some predictions are not learned; which, and how many, is as private as the data.
      formats: digest of the file of formats.
      split: a step has two proofs, of its gradient and of the optimizer.
    """

    model: str | None
    config: Mapping[str, Any]
    formats: str
    r: Size
    alpha: Positive
    targets: Sequence[str]
    optimizer: Mapping[str, Any]
    steps: Annotated[int, Between(1, 1 << 20)]
    batch: Annotated[int, Between(1, 1 << 12)]
    length: Annotated[int, Between(1, 1 << 14)]
    masked: bool
    public_base: bool
    public_data: bool
    split: bool
    profile: Literal["s100", "s128"]
    version: Annotated[int, Between(VERSION, VERSION)] = VERSION

    @property
    def lora(self) -> LoraConfig:
        return LoraConfig(r=self.r, alpha=self.alpha, targets=tuple(self.targets))

    @property
    def optimizer_config(self) -> OptimizerConfig:
        return OptimizerConfig(**self.optimizer)

    @property
    def model_config(self) -> ModelConfig:
        return config_from_json(self.config)

    def encode(self) -> bytes:
        return (json.dumps(dataclasses.asdict(self), indent=1) + "\n").encode()

    @property
    def digest(self) -> bytes:
        return hashlib.blake2s(self.encode(), person=b"zkj.run1").digest()

    def require_consistent(self) -> None:
        """OptionError, or ValueError, if the facts contradict each other, or are of a run so large
        that to trace its statement would be an attack.
        """
        config, optimizer = self.model_config, self.optimizer_config
        if (self.model is None) == self.public_base:
            raise ValueError("a base model is named if it is public")
        if optimizer.total_steps != self.steps:
            raise ValueError("the optimizer is of another number of steps")
        rows = self.batch * optimizer.gradient_accumulation_steps
        if rows * self.length > MOST_TOKENS or self.batch * self.length**2 > MOST_SCORES:
            raise OptionError(
                f"{rows} rows of {self.length} tokens; a step may have {MOST_TOKENS:,} tokens, and "
                f"batch x length^2 be {MOST_SCORES:,}"
            )
        require_targets(self.lora.targets)
        for target in self.targets:
            if self.r > min(config.projection_shape(target)):
                raise OptionError(f"rank {self.r} is larger than the layer {target}")
        sizes = [sum(config.projection_shape(target)) for target in self.targets]
        if config.num_hidden_layers * self.r * sum(sizes) > MOST_PARAMETERS:
            raise OptionError(f"an adapter of more than {MOST_PARAMETERS:,} parameters")

    def context(self, step: int) -> bytes:
        """What the proof of a step is bound to: this run and its place in it; 0 is the start."""
        return self.digest + step.to_bytes(8, "little")

    @classmethod
    def decode(cls, data: bytes, where: str) -> Facts:
        """Read a run.json; StatementError if it is anything but one of this version."""
        try:
            raw = json.loads(data)
            if type(raw) is not dict or raw.get("version") != VERSION:
                raise ValueError("of another version")
            facts = cls(**raw)
            facts.require_consistent()
        except (ValueError, TypeError, RecursionError, OptionError) as error:
            raise StatementError(f"{where} is no run: {error}") from error
        if facts.encode() != data:
            raise StatementError(f"{where} is not canonical")
        return facts
