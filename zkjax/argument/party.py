"""Verifier logic over abstract values: padded messages, linear constraints, product triples.

Protocol code (sumcheck, lookups, claim reduction) is written once, against ``Party``. Every field
element X the prover would send is sent as X - d, d a fresh uniform pad committed beforehand. To
either side such a value is an ``Expression``: a known part plus a linear form in pads and in
functionals of committed tensors. Checks become ``require_zero``; a product of two padded values
becomes a triple of pads (d_x, d_y, d_x d_y):

    X Y = X^ Y^ + X^ d_y + Y^ d_x + d_x d_y.

At the end one random combination of all constraints is proved with the polynomial commitment.
Three parties run the same code: ``Prover`` (knows the values), ``Verifier`` (reads messages),
``Planner`` (counts the pads a statement needs before anything is committed).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from zkjax.argument.transcript import ProverTranscript, Transcript, VerifierTranscript
from zkjax.argument.vectors import Vectors
from zkjax.field.scalar import Scalar, stack

Weights = tuple  # one (kappa, n_axis) array per axis of a tensor: a rank-one functional
Pad = tuple[str, int]  # ("single" | "x" | "y" | "xy", index)


class Expression:
    """known + linear form; ``value`` is the true value where the party knows it (the prover)."""

    __slots__ = ("index", "known", "tape", "value")

    def __init__(self, tape: Tape, parents, known: Scalar, value: Scalar | None):
        self.tape, self.known, self.value = tape, known, value
        self.index = tape.append(parents)

    def _linear(self, terms: Sequence[tuple[Expression, Scalar | int]], offset=0) -> Expression:
        known = sum((e.known * c for e, c in terms), self.tape.zero + offset)
        value = None
        if all(e.value is not None for e, _ in terms):
            value = sum((e.value * c for e, c in terms), self.tape.zero + offset)
        return Expression(self.tape, [(e.index, c) for e, c in terms], known, value)

    def __add__(self, other) -> Expression:
        if isinstance(other, Expression):
            return self._linear([(self, 1), (other, 1)])
        return self._linear([(self, 1)], other)

    __radd__ = __add__

    def __sub__(self, other) -> Expression:
        if isinstance(other, Expression):
            return self._linear([(self, 1), (other, -1)])
        return self._linear([(self, 1)], -other)

    def __mul__(self, scalar: Scalar | int) -> Expression:
        return self._linear([(self, scalar)])


class Functional:
    """A leaf of the tape: the rank-one functional <weights, tensor> of a committed tensor."""

    __slots__ = ("tensor", "weights")

    def __init__(self, tensor: int, weights: Weights):
        self.tensor, self.weights = tensor, weights


class Tape:
    """Records how expressions depend on pads and functionals, for one reverse pass at the end."""

    def __init__(self, kappa: int):
        self.zero = Scalar.of(0, kappa)
        self._parents: list = []
        self._leaves: dict[int, object] = {}
        self.constraints: list[tuple[Expression, str]] = []

    def append(self, parents) -> int:
        self._parents.append(parents)
        return len(self._parents) - 1

    def leaf(self, leaf: object, known: Scalar, value: Scalar | None) -> Expression:
        expression = Expression(self, (), known, value)
        self._leaves[expression.index] = leaf
        return expression

    def combine(self, terms: Sequence[tuple[Expression, Scalar | int]]) -> Expression:
        """sum_i c_i e_i as one node."""
        if not terms:
            return Expression(self, (), self.zero, self.zero)
        return terms[0][0]._linear(terms)

    def gradient(self, roots: Sequence[tuple[Expression, Scalar]]) -> dict[object, Scalar]:
        """Coefficients of sum_i c_i root_i on every leaf, by reverse accumulation."""
        adjoint: dict[int, Scalar] = {}
        for root, coefficient in roots:
            adjoint[root.index] = adjoint.get(root.index, self.zero) + coefficient
        for index in range(len(self._parents) - 1, -1, -1):
            a = adjoint.get(index)
            if a is None:
                continue
            for parent, coefficient in self._parents[index]:
                before = adjoint.get(parent)
                term = a * coefficient
                adjoint[parent] = term if before is None else before + term
        total: dict[object, Scalar] = {}
        for index, leaf in self._leaves.items():
            if index in adjoint:
                total[leaf] = total.get(leaf, self.zero) + adjoint[index]
        return total


class Party:
    """What protocol code may do. Subclasses differ in where messages come from."""

    planning = False  # whether values do not matter

    def __init__(self, transcript: Transcript):
        self.transcript = transcript
        self.kappa = transcript.kappa
        self.tape = Tape(self.kappa)
        self.singles = 0
        self.triples = 0
        self.sent: Counter[str] = Counter()  # messages of each kind
        self.vectors = Vectors()
        self._functionals: dict[tuple, Expression] = {}

    # Messages -------------------------------------------------------------------------------

    @property
    def messages(self) -> int:
        return self.sent.total()

    def send(self, kind: str, n: int, compute: Callable[[], Sequence[Scalar]]) -> list[Expression]:
        """n padded values; ``compute`` is called by the prover only."""
        pads = [("single", self.singles + i) for i in range(n)]
        self.singles += n
        self.sent[kind] += 1
        return self._exchange(kind, pads, compute)

    def send_product(
        self, kind: str, compute: Callable[[], tuple[Scalar, Scalar]]
    ) -> tuple[Expression, Expression, Expression]:
        """Two padded values X, Y and the expression of X * Y."""
        i = self.triples
        self.triples += 1
        self.sent[kind] += 1
        x, y = self._exchange(kind, [("x", i), ("y", i)], compute)
        dxy = self._pad(("xy", i))
        known = x.known * y.known
        value = None if x.value is None else x.value * y.value
        # x = X^ + d_x, so X^ * d_y etc. are linear in the pad leaves below.
        dx, dy = self._pad(("x", i)), self._pad(("y", i))
        parents = [(dy.index, x.known), (dx.index, y.known), (dxy.index, 1)]
        return x, y, Expression(self.tape, parents, known, value)

    def multiply(self, kind: str, a: Expression, b: Expression) -> Expression:
        """a * b for two existing expressions: sent again under product pads, and tied to them."""
        x, y, xy = self.send_product(kind, lambda: (a.value, b.value))
        self.require_zero(x - a, kind)
        self.require_zero(y - b, kind)
        return xy

    def grind(self, bits: int) -> None:
        """Proof of work before the next challenge."""
        raise NotImplementedError

    def challenge(self, kind: str, degree: int | None = None) -> Scalar:
        """``degree``: for how many elements of E a false claim would pass, see ``Transcript``."""
        return self.transcript.challenge(kind, degree)

    def challenges(self, kind: str, n: int) -> list[Scalar]:
        return [self.transcript.challenge(kind) for _ in range(n)]

    def part(self, done: int, of: int, detail: str, fraction: float) -> None:
        """Tell how far a long phase is; see ``zkjax.progress``. Only a prover does."""

    # Expressions ----------------------------------------------------------------------------

    def constant(self, value: Scalar | int) -> Expression:
        value = self.tape.zero + value
        return Expression(self.tape, (), value, value)

    def functional(self, tensor: int, weights: Weights) -> Expression:
        """<weights, tensor> for a committed tensor, as a leaf; equal functionals share one leaf."""
        key = tensor, self.vectors.names(weights)
        if key not in self._functionals:
            leaf = Functional(tensor, weights)
            value = self._functional_value(leaf)
            self._functionals[key] = self.tape.leaf(leaf, self.tape.zero, value)
        return self._functionals[key]

    def require_zero(self, expression: Expression, name: str) -> None:
        """Constrain an expression to be zero."""
        self.tape.constraints.append((expression, name))

    # For subclasses -------------------------------------------------------------------------

    def _pad(self, pad: Pad) -> Expression:
        return self.tape.leaf(pad, self.tape.zero, None)

    def _exchange(self, kind: str, pads: list[Pad], compute) -> list[Expression]:
        raise NotImplementedError

    def _functional_value(self, leaf: Functional) -> Scalar | None:
        return None


class Planner(Party):
    """Runs the protocol without values; afterwards ``singles`` and ``triples`` are the pads
    needed.
    """

    planning = True

    def __init__(self, kappa: int):
        super().__init__(Transcript("plan", kappa))

    def grind(self, bits: int) -> None:
        pass

    def _exchange(self, kind, pads, compute):
        return [self.tape.leaf(p, self.tape.zero, None) for p in pads]


class Verifier(Party):
    """Reads padded messages from the proof."""

    transcript: VerifierTranscript

    def grind(self, bits: int) -> None:
        self.transcript.grind(bits)

    def _exchange(self, kind, pads, compute):
        masked = self.transcript.read_field(kind, (self.kappa, len(pads)))
        return [
            self.tape.leaf(pad, Scalar.from_array(masked[:, i]), None) for i, pad in enumerate(pads)
        ]


class Prover(Party):
    """Knows the pads and the committed tensors; sends value - pad.

    Args:
      transcript: where messages go.
      pads: for each pad kind a list of ``Scalar``.
      tensor_value: ``(tensor, weights) -> Scalar``, the value of a functional.
      part: takes what is told of long phases.
    """

    transcript: ProverTranscript

    def __init__(
        self,
        transcript,
        pads: dict[str, list[Scalar]],
        tensor_value,
        part: Callable[[int, int, str, float], None] = lambda done, of, detail, fraction: None,
    ):
        super().__init__(transcript)
        self.pads, self._tell = pads, part
        self._tensor_value = tensor_value

    def part(self, done, of, detail, fraction):
        self._tell(done, of, detail, fraction)

    def grind(self, bits: int) -> None:
        self.transcript.grind(bits)

    def _exchange(self, kind, pads, compute):
        values = list(compute())
        masked = [v - self.pads[p][i] for v, (p, i) in zip(values, pads, strict=True)]
        self.transcript.write_field(kind, stack(masked))
        return [self.tape.leaf(pad, m, v) for pad, m, v in zip(pads, masked, values, strict=True)]

    def _functional_value(self, leaf):
        return self._tensor_value(leaf.tensor, leaf.weights)


def pad_rows(counts: tuple[int, int], width: int) -> dict[str, tuple[int, int]]:
    """Row ranges (start, count) of each pad kind in a pad tableau with rows of ``width`` values."""
    singles, triples = counts
    t, s = -(-triples // width), -(-singles // width)
    return {"x": (0, t), "y": (t, t), "xy": (2 * t, t), "single": (3 * t, s)}


def pad_array(values: Sequence[Scalar], rows: int, width: int, kappa: int) -> np.ndarray:
    """(kappa, rows, width) with the values in row-major order, zero-filled."""
    out = np.zeros((kappa, rows * width), dtype=np.uint64)
    if values:
        out[:, : len(values)] = stack(values)
    return out.reshape(kappa, rows, width)
