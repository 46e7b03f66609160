"""The Fiat-Shamir transcript: typed, length-prefixed, BLAKE2s-256.

A proof is written and read only through a transcript, so whatever one side uses, the other has
absorbed. ``ProverTranscript.write`` appends to the proof and absorbs; ``VerifierTranscript.read``
takes the same number of bytes from the proof and absorbs them. Nothing declared by the proof
itself says how long it is: all lengths follow from the statement.

A transcript remembers which challenges it gave, for the soundness budget: ``squeezed`` lists, for
each kind, the degree of every one of them. The degree is the number of elements of E for which a
false claim would pass, as whoever draws the challenge states it; None, where the budget knows it.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np

from zkjax.errors import VerificationError
from zkjax.field import goldilocks as gl
from zkjax.field.scalar import Scalar

SLOW_ITERATIONS = 1 << 16


class Transcript:
    """Absorb typed messages, squeeze challenges in F, E and index ranges."""

    def __init__(self, label: str, kappa: int):
        self.kappa = kappa
        self.squeezed: dict[str, list[int | None]] = {}
        self._hash = hashlib.blake2s(person=b"zkj.tran")
        self.absorb("protocol", label.encode())

    def absorb(self, kind: str, data: bytes) -> None:
        """Absorb ``data`` under the type name ``kind``; both are length-prefixed."""
        name = kind.encode()
        self._hash.update(struct.pack("<IQ", len(name), len(data)) + name + data)

    def squeeze(self, kind: str, n: int) -> bytes:
        """n challenge bytes that depend on everything absorbed so far, and on ``kind``."""
        self.absorb("squeeze " + kind, struct.pack("<Q", n))
        seed = self._hash.copy().digest()
        blocks = (
            hashlib.blake2s(seed + struct.pack("<Q", i), person=b"zkj.sqez").digest()
            for i in range(-(-n // 32))
        )
        return b"".join(blocks)[:n]

    def _note(self, kind: str, degree: int | None) -> None:
        self.squeezed.setdefault(kind, []).append(degree)

    def challenge(self, kind: str, degree: int | None = None) -> Scalar:
        """One uniform element of E: 128 bits a coefficient, reduced mod p (bias 2^-64)."""
        self._note(kind, degree)
        data = self.squeeze(kind, 16 * self.kappa)
        return Scalar(
            int.from_bytes(data[16 * i : 16 * i + 16], "little") % gl.P for i in range(self.kappa)
        )

    def challenge_vector(self, kind: str, n: int, degree: int | None = None) -> np.ndarray:
        """(kappa, n) independent uniform elements of E; ``degree`` is that of all together."""
        self._note(kind, degree)
        data = np.frombuffer(self.squeeze(kind, 16 * self.kappa * n), dtype="<u8")
        low, high = (data[i::2].astype(np.uint64) for i in (0, 1))
        shift = np.uint64(2**32 - 1)  # 2^64 mod p
        low = np.where(low >= np.uint64(gl.P), low - np.uint64(gl.P), low)
        high = np.where(high >= np.uint64(gl.P), high - np.uint64(gl.P), high)
        return gl.add(low, gl.mul(high, shift)).reshape(self.kappa, n)

    def distinct_indices(self, kind: str, count: int, bound: int) -> np.ndarray:
        """``count`` distinct sorted indices below the power of two ``bound``, by rejection."""
        self._note(kind, None)
        chosen: set[int] = set()
        block = 0
        while len(chosen) < count:
            words = np.frombuffer(self.squeeze(f"{kind} {block}", 4 * count), dtype="<u4")
            for word in words:
                if len(chosen) < count:
                    chosen.add(int(word) & (bound - 1))
            block += 1
        return np.array(sorted(chosen), dtype=np.int64)

    def slow_down(self) -> None:
        """Iterate the hash on the whole state 2^16 times and absorb the result.

        Makes a circuit that contains its own transcript (KRS, 2025/118) too expensive to be useful.
        """
        digest = self._hash.copy().digest()
        for _ in range(SLOW_ITERATIONS):
            digest = hashlib.blake2s(digest, person=b"zkj.slow").digest()
        self.absorb("slow", digest)

    def _grind_digest(self, nonce: int) -> int:
        data = self._hash.copy().digest() + struct.pack("<Q", nonce)
        return int.from_bytes(hashlib.blake2s(data, person=b"zkj.work").digest()[:8], "big")


class ProverTranscript(Transcript):
    """A transcript that also collects the proof."""

    def __init__(self, label: str, kappa: int):
        super().__init__(label, kappa)
        self._parts: list[bytes] = []
        self.inventory: dict[str, tuple[int, int]] = {}

    @property
    def proof(self) -> bytes:
        return b"".join(self._parts)

    def write(self, kind: str, data: bytes) -> None:
        """Append ``data`` to the proof and absorb it. ``inventory`` counts messages and bytes by
        type.
        """
        count, size = self.inventory.get(kind, (0, 0))
        self.inventory[kind] = (count + 1, size + len(data))
        self._parts.append(data)
        self.absorb(kind, data)

    def write_field(self, kind: str, values: np.ndarray) -> None:
        """Write uint64 field elements, little-endian."""
        self.write(kind, np.ascontiguousarray(values, dtype="<u8").tobytes())

    def grind(self, bits: int) -> None:
        """Find and write a nonce whose digest starts with ``bits`` zero bits."""
        if not bits:
            return
        nonce = 0
        while self._grind_digest(nonce) >> (64 - bits):
            nonce += 1
        self.write("grinding nonce", struct.pack("<Q", nonce))


class VerifierTranscript(Transcript):
    """A transcript that reads a proof from front to back."""

    def __init__(self, label: str, kappa: int, proof: bytes):
        super().__init__(label, kappa)
        self._proof = proof
        self._position = 0

    def read(self, kind: str, n: int) -> bytes:
        """The next n bytes of the proof, absorbed."""
        if n > len(self._proof) - self._position:
            raise VerificationError("proof length", f"the proof ends inside '{kind}'")
        data = self._proof[self._position : self._position + n]
        self._position += n
        self.absorb(kind, data)
        return data

    def read_field(self, kind: str, shape: tuple[int, ...]) -> np.ndarray:
        """Read canonical field elements of the given shape."""
        count = int(np.prod(shape, dtype=np.int64))
        values = np.frombuffer(self.read(kind, 8 * count), dtype="<u8").astype(np.uint64)
        if not gl.is_canonical(values):
            raise VerificationError("canonical encoding", f"'{kind}' holds a number >= p")
        return values.reshape(shape)

    def grind(self, bits: int) -> None:
        """Read a nonce and check its digest."""
        if not bits:
            return
        before = self._hash.copy()
        nonce = struct.unpack("<Q", self.read("grinding nonce", 8))[0]
        after, self._hash = self._hash, before
        value = self._grind_digest(nonce)
        self._hash = after
        if value >> (64 - bits):
            raise VerificationError("grinding", f"nonce does not reach {bits} bits")

    def finish(self) -> None:
        """Reject trailing bytes."""
        left = len(self._proof) - self._position
        if left:
            raise VerificationError("proof length", f"{left} bytes follow the proof")
