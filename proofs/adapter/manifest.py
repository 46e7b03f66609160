"""The manifest: everything about an adapter that is public, pinned before the first activation."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from zkjax._arguments import typed
from zkjax.digests import BYTES, read_digest
from zkjax.errors import OptionError, SessionError, VerificationError
from zkjax.models.config import ALL_TARGETS, INPUT_GROUPS, ModelConfig
from zkjax.proof import Commitment

MAX_BYTES = 1 << 16
STORED = ("int16", "int32")  # types of stored weights
WEIGHT_FRACTION, MASTER_FRACTION = 12, 24
MOST_FRACTION = 30


@dataclass(frozen=True)
class Manifest:
    """A committed LoRA adapter.

    Attributes:
      base: the digest (hex) of the base model that it is for (``models.checkpoint.model_digest``);
        None if it does not say.
      layers: the adapted layers of the base model, increasing.
      targets: the adapted linear layers with their (inputs, outputs), in ``ALL_TARGETS`` order.
      r: the rank.
      log2_scale: alpha / r is 2 to this power; another ratio is folded into B when committing.
      dtype: of the stored weights: int16, or int32 with 24 fraction bits.
      fractions: fraction bits of A and B in products: those that int16 weights are stored with;
        int32 weights are rounded to 12.
      statement: the digest of the statement about one token; the same family of statements is
        proved about a whole session (see ``statement.make_deltas``).
      commitment: the commitment to {target: {"a": (layers, inputs, r), "b": (layers, r, outputs)}}.
    """

    layers: tuple[int, ...]
    targets: dict[str, tuple[int, int]]
    r: int
    log2_scale: int
    dtype: str
    statement: str
    commitment: Commitment
    fractions: tuple[int, int] = (WEIGHT_FRACTION, WEIGHT_FRACTION)
    base: str | None = None

    @property
    def scale(self) -> float:
        return 2.0**self.log2_scale

    @property
    def parameters(self) -> int:
        return len(self.layers) * self.r * sum(i + o for i, o in self.targets.values())

    @property
    def modules(self) -> int:
        return len(self.layers) * len(self.targets)

    def groups(self) -> dict[str, tuple[str, ...]]:
        """The input groups that this adapter reads, with its targets in each."""
        mine = {g: tuple(t for t in ts if t in self.targets) for g, ts in INPUT_GROUPS.items()}
        return {g: ts for g, ts in mine.items() if ts}

    def inputs(self, group: str) -> int:
        """The size of the activation that a group reads."""
        return self.targets[self.groups()[group][0]][0]

    def outputs(self, group: str) -> int:
        """The sizes of a group's deltas, added up."""
        return sum(self.targets[t][1] for t in self.groups()[group])

    def split(self, group: str, deltas: np.ndarray) -> dict[str, np.ndarray]:
        """The side-by-side deltas of an answer, by target."""
        sizes = [self.targets[t][1] for t in self.groups()[group]]
        parts = np.split(deltas, np.cumsum(sizes)[:-1], axis=-1)
        return dict(zip(self.groups()[group], parts, strict=True))

    def structure(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Shapes of the committed pytree."""
        n = len(self.layers)
        return {
            t: {"a": (n, inputs, self.r), "b": (n, self.r, outputs)}
            for t, (inputs, outputs) in self.targets.items()
        }

    def leaves(self) -> Iterator[tuple[int, ...]]:
        """The shapes in the order of the commitment (sorted keys, as JAX flattens dicts)."""
        for _, parts in sorted(self.structure().items()):
            yield from (parts["a"], parts["b"])

    def encode(self) -> bytes:
        """Canonical JSON, without the range proof."""
        data: dict[str, Any] = {
            "layers": list(self.layers),
            "targets": {t: list(shape) for t, shape in self.targets.items()},
            "r": self.r,
            "log2_scale": self.log2_scale,
            "dtype": self.dtype,
            "fractions": list(self.fractions),
            "base": self.base,
            "statement": self.statement,
            "commitment": self.commitment.identity(),
        }
        return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()

    @property
    def digest(self) -> bytes:
        return hashlib.blake2s(self.encode(), person=b"zkj.mnft").digest()

    @classmethod
    @typed
    def decode(cls, data: bytes) -> Manifest:
        """Read a manifest; SessionError("manifest") on anything but a canonical one."""
        try:
            if len(data) > MAX_BYTES:
                raise ValueError("too long")
            raw = json.loads(data)
            commitment = Commitment.from_json(raw["commitment"])
            manifest = cls(
                tuple(raw["layers"]),
                {t: (raw["targets"][t][0], raw["targets"][t][1]) for t in ALL_TARGETS
                 if t in raw["targets"]},
                raw["r"],
                raw["log2_scale"],
                raw["dtype"],
                raw["statement"],
                commitment,
                tuple(raw["fractions"]),
                raw["base"],
            )  # fmt: skip
            manifest.check()
            if manifest.encode() != data:
                raise ValueError("not canonical")
        except SessionError:
            raise
        except Exception as error:  # whatever the bytes were
            raise SessionError("manifest", f"malformed ({error})") from None
        return manifest

    def check(self) -> None:
        """SessionError("manifest") names a field that is out of range or contradicts others."""
        self.check_description()
        self._require(
            self.commitment.shapes == tuple(self.leaves()), "the commitment has other shapes"
        )
        self._require(
            set(self.commitment.dtypes) == {self.dtype}, "the commitment has another dtype"
        )

    @staticmethod
    def _require(condition: bool, what: str) -> None:
        if not condition:
            raise SessionError("manifest", what)

    def check_description(self) -> None:
        """``check`` of all but the commitment."""
        require = self._require

        def numbers(values, low: int, high: int) -> bool:
            return all(type(v) is int and low <= v < high for v in values)

        require(
            numbers(self.layers, 0, 1 << 12) and len(self.layers) > 0,
            "layers are one or more integers from 0 to 4095",
        )
        require(list(self.layers) == sorted(set(self.layers)), "layers are not increasing")
        require(len(self.targets) > 0, "there are no targets")
        require(
            all(numbers(s, 1, 1 << 20) for s in self.targets.values()),
            "shapes of targets are integers from 1 to 2^20 - 1",
        )
        for group, targets in self.groups().items():
            require(len({self.targets[t][0] for t in targets}) == 1, f"inputs of {group} differ")
        smallest = min(min(s) for s in self.targets.values())
        require(numbers([self.r], 1, smallest + 1), "r is larger than a layer")
        require(numbers([self.log2_scale], -8, 9), "log2_scale is from -8 to 8")
        require(self.dtype in STORED, f"dtype is {' or '.join(STORED)}")
        require(
            len(self.fractions) == 2 and numbers(self.fractions, 0, MOST_FRACTION + 1),
            f"fractions are two integers from 0 to {MOST_FRACTION}",
        )
        rounded = self.dtype == "int32"
        require(
            not rounded or self.fractions == (WEIGHT_FRACTION,) * 2, "fractions of int32 are 12"
        )
        require(
            self.base is None or _is_digest(self.base), "base is no digest of 64 hexadecimal digits"
        )
        require(_is_digest(self.statement), "the statement's name is no digest")

    @typed
    def require_digest(self, expected: str | bytes) -> None:
        """The adapter must be the one whose manifest has this digest (hex, or bytes);
        VerificationError if it is another one.
        """
        try:
            digest = read_digest(expected)
        except OptionError as error:
            raise SessionError("manifest", str(error)) from None
        if digest in (self.commitment.root, self.commitment.digest):
            detail = f"{digest.hex()} is the commitment; name the manifest's digest"
            raise SessionError("manifest", detail)
        if digest != self.digest:
            raise VerificationError("manifest", f"the adapter is {self.digest.hex()}")

    @typed
    def require_base(self, config: ModelConfig, digest: str | None = None) -> None:
        """The adapter must fit a base model, and be for it if both say which;
        SessionError("manifest") says what is not so.
        """
        if None not in (digest, self.base) and digest != self.base:
            raise SessionError(
                "manifest", f"the adapter is for the base model {self.base}, this is {digest}"
            )
        if strange := sorted(set(self.targets) - set(config.targets)):
            raise SessionError("manifest", f"the base model has no {strange[0]}")
        for target, shape in self.targets.items():
            if config.projection_shape(target) != shape:
                raise SessionError(
                    "manifest",
                    f"the adapter's {target} is {shape[0]} -> {shape[1]}, the base model's "
                    "{} -> {}".format(*config.projection_shape(target)),
                )
        if self.layers[-1] >= config.num_hidden_layers:
            raise SessionError("manifest", f"the base model has no layer {self.layers[-1]}")


def _is_digest(name: str) -> bool:
    try:
        return len(bytes.fromhex(name)) == BYTES
    except ValueError:
        return False


def dyadic_scale(scale: float) -> int | None:
    """log2 of a scale if it is a power of two that a manifest can hold."""
    mantissa, exponent = math.frexp(scale)
    return exponent - 1 if mantissa == 0.5 and -8 <= exponent - 1 <= 8 else None
