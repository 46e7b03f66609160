"""The soundness budget as code: which error each challenge of a proof adds, from its real sizes.

Every kind of challenge that a transcript gave has a term, a sum over all challenges of that kind;
one without a term is refused. Unique decoding throughout, in the random-oracle model. The total is
a union bound over all terms; parameters (queries, grinding) are chosen so that it meets the
profile, and the verifier recomputes and checks it. Sources: round-by-round analysis of Ligero-type
arguments (2022/1608, Longfellow's December 2025 security analysis), LogUp (2022/1530).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from zkjax.argument.code import Code
from zkjax.errors import OptionError, VerificationError


@dataclass(frozen=True)
class Profile:
    """A security level: the extension degree and the bits every proof must reach."""

    name: str
    kappa: int
    bits: int

    @property
    def field_bits(self) -> float:
        return self.kappa * math.log2(2**64 - 2**32 + 1)

    @property
    def query_bits(self) -> int:
        """Target of the queries of each code: the factor 8 leaves room for the other terms."""
        return self.bits + 3


PROFILES = {"s100": Profile("s100", 2, 100), "s128": Profile("s128", 3, 128)}


def profile_named(name: str) -> Profile:
    """The profile called ``name``; ValueError lists the known ones."""
    try:
        return PROFILES[name]
    except KeyError:
        raise OptionError(f"unknown profile {name!r}; known: {', '.join(PROFILES)}") from None


def _log2_choose_ratio(top: int, bottom: int, t: int) -> float:
    """log2 of C(top, t) / C(bottom, t)."""
    if t > top:
        return -math.inf
    return sum(math.log2((top - i) / (bottom - i)) for i in range(t))


def query_error_bits(code_length: int, dimension: int, queries: int) -> float:
    """-log2 of C((n + k) / 2, t) / C(n, t) + C(2k - 2, t) / C(n, t)."""
    n, k, t = code_length, dimension, queries
    if t > n:
        return 0.0
    far = _log2_choose_ratio((n + k) // 2, n, t)
    agree = _log2_choose_ratio(2 * k - 2, n, t)
    error = 2.0**far + 2.0**agree
    return -math.log2(error) if error else math.inf


@cache
def queries_for(code: Code, profile: Profile) -> int:
    """The least number of columns that meets the profile's query target."""
    t = 1
    while query_error_bits(code.length, code.dimension, t) < profile.query_bits:
        t += 1
        if t > code.length:
            raise ValueError(f"code {code} cannot reach {profile.query_bits} bits")
    return t


@cache
def choose_code(log_row: int, openings: int, profile: Profile) -> Code:
    """A code of rate about 1/4 whose rows stay hidden under ``openings`` openings."""
    queries = 1
    while True:
        dimension = (1 << log_row) + openings * queries
        log_length = max(1, math.ceil(math.log2(3.8 * dimension)))
        code = Code(log_row, openings * queries, log_length)
        try:
            needed = queries_for(code, profile)
        except ValueError:
            needed = queries + 1
        if needed <= queries:
            return code
        queries = needed


@dataclass
class Budget:
    """Error terms of one proof. ``terms`` maps a kind of challenge to -log2 of its error."""

    profile: Profile
    terms: dict[str, float] = field(default_factory=dict)

    def field_term(self, kind: str, numerator: int, grinding: int = 0) -> None:
        """Add a Schwartz-Zippel error numerator / |E|, reduced by proof of work."""
        bits = self.profile.field_bits - math.log2(numerator) if numerator else math.inf
        self.terms[kind] = bits + grinding

    def challenges(
        self, squeezed: Mapping[str, Sequence[int | None]], given: Mapping[str, int]
    ) -> None:
        """Add a term for each kind in ``Transcript.squeezed``: the sum of its degrees, or the
        numerator that ``given`` has for it. Kinds that have a term are left as they are.
        """
        for kind, degrees in squeezed.items():
            if kind in self.terms:
                continue
            stated = [d for d in degrees if d is not None]
            if kind not in given and len(stated) < len(degrees):
                raise RuntimeError(f"internal: the budget has no term for the challenge {kind!r}")
            self.field_term(kind, given.get(kind, sum(stated)))

    def query_term(self, code: Code, queries: int) -> None:
        """The columns opened in one code.

        All responses are fixed before the first column is drawn, so a false proof has at least one
        bad code by then, and passes only if the columns of every bad code agree: the error is that
        of the weakest code, not the sum over codes.
        """
        bits = query_error_bits(code.length, code.dimension, queries)
        self.terms["columns"] = min(self.terms.get("columns", math.inf), bits)

    @property
    def bits(self) -> float:
        """-log2 of the sum of all errors."""
        return -math.log2(sum(2.0**-b for b in self.terms.values()))

    def check(self) -> None:
        """Raise unless the profile is met."""
        if self.bits < self.profile.bits:
            weakest = min(self.terms, key=self.terms.__getitem__)
            raise VerificationError(
                "soundness budget",
                f"{self.bits:.1f} bits, {self.profile.name} needs {self.profile.bits} "
                f"(weakest: {weakest}, {self.terms[weakest]:.1f})",
            )


def grinding_bits(leaves: int, width: int, profile: Profile) -> int:
    """Proof-of-work bits before the lookup challenge, so that N (w + 1) / |E| meets the profile."""
    bits = profile.field_bits - math.log2(leaves * (width + 1))
    return max(0, math.ceil(profile.bits + 3 - bits))
