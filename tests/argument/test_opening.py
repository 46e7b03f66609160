"""The commitment opening: honest proofs pass, and every check fires when its object is changed."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from foreseen import HOW, foreseen
from reference import (
    P,
    cube,
    e_add,
    e_mul,
    e_neg,
    e_sum,
    elements,
    embed,
    eq_weight,
    horner,
    ints,
    random_field,
)

from zkjax.argument import merkle, opening, opening_prover
from zkjax.argument.budget import Profile, choose_code, queries_for
from zkjax.argument.code import Code
from zkjax.argument.entropy import SeededEntropy
from zkjax.argument.opening import Group, Member, Pads
from zkjax.argument.tableau import Tableau, blind
from zkjax.argument.transcript import ProverTranscript, Transcript, VerifierTranscript
from zkjax.errors import VerificationError, WitnessError
from zkjax.field import goldilocks as gl
from zkjax.field import ntt
from zkjax.field.scalar import Scalar

PROFILES = {2: Profile("test", 2, 10), 3: Profile("test", 3, 10)}
kappas = pytest.mark.parametrize("kappa", [2, 3])

# Per group: log2 of the row length, and the rows of its tableaux.
GROUPS = [(2, [2, 3]), (3, [1])]
LOG_PAD_ROW = 2


class Instance:
    """A small linear statement that holds, with everything a prover knows.

    The pad tableau has ``triples`` rows each of x, y and xy, and ``singles`` rows of single pads.
    """

    def __init__(
        self,
        kappa: int = 2,
        groups=GROUPS,
        triples: int = 1,
        seed: int = 1,
        forced=None,
        singles: int = 1,
        log_pad_row: int = LOG_PAD_ROW,
    ):
        self.kappa, self.profile = kappa, PROFILES[kappa]
        entropy, rng = SeededEntropy(seed), np.random.default_rng(7)
        mus = opening_prover.split_mu(len(groups) + 1, kappa, entropy)
        self.groups, self.values = [], []
        for (log_row, sizes), mu in zip(groups, mus, strict=False):
            code = forced or choose_code(log_row, 1, self.profile)
            values = [random_field(rng, (rows, code.row)) for rows in sizes]
            members = [
                self.member(f"tableau {i}", blind(v, code, entropy), code.log_length, entropy)
                for i, v in enumerate(values)
            ]
            masks = self.member(
                "masks", opening_prover.group_masks(code, mu, entropy), code.log_length, entropy
            )
            weights = random_field(rng, (kappa, sum(sizes)))
            point = random_field(rng, (kappa, log_row))
            self.groups.append(Group(code, members, masks, weights, point))
            self.values.append(np.concatenate(values))
        code = choose_code(log_pad_row, 1, self.profile)
        rows = 3 * triples + singles
        self.pad_values = random_field(rng, (kappa, rows, code.row))
        for i in range(triples):
            x, y = (elements(self.pad_values[:, j]) for j in (i, triples + i))
            products = [e_mul(a, b) for a, b in zip(x, y, strict=True)]
            self.pad_values[:, 2 * triples + i] = np.array(products, dtype=np.uint64).T
        self.pad_mu, self.pad_code, self.triples = mus[-1], code, triples
        self.pad_weights = random_field(rng, (kappa, rows, code.row))
        self.commit_pads(seed)

    @staticmethod
    def member(name: str, rows, log_length: int, entropy) -> Member:
        tableau = Tableau.fresh(rows, log_length, entropy)
        return Member(name, tableau.root, rows.shape[0], tableau)

    def commit_pads(self, seed: int = 99) -> None:
        """Commit ``pad_values`` (again, after a test has changed them)."""
        entropy = SeededEntropy(1000 + seed)
        rows = opening_prover.pad_tableau_rows(self.pad_values, self.pad_code, self.pad_mu, entropy)
        member = self.member("pads", rows, self.pad_code.log_length, entropy)
        count = self.pad_values.shape[1]
        self.pads = Pads(self.pad_code, member, count, self.triples, self.pad_weights)

    def known(self) -> Scalar:
        """Minus the sum of all functionals, from the definition."""
        kappa, total = self.kappa, embed(0, self.kappa)
        for group, values in zip(self.groups, self.values, strict=True):
            point = elements(group.point)
            eq = [eq_weight(point, v, kappa) for v in cube(len(point))]
            for g, row in zip(elements(group.weights), values, strict=True):
                for e, v in zip(eq, ints(row), strict=True):
                    total = e_add(total, e_mul(g, e, embed(v, kappa)))
        flat = (elements(a.reshape(kappa, -1)) for a in (self.pad_weights, self.pad_values))
        total = e_add(total, *(e_mul(w, v) for w, v in zip(*flat, strict=True)))
        return Scalar(e_neg(total))

    def prove(self, change=None) -> bytes:
        transcript = (ProverTranscript if change is None else Tampering)("opening", self.kappa)
        transcript.change = change
        with unchecked():
            opening_prover.prove(transcript, self.profile, self.groups, self.pads, self.known())
        return transcript.proof

    def verify(self, proof: bytes, known: Scalar | None = None) -> None:
        """Check with what a verifier has: roots and sizes, no tableaux."""
        groups = [
            Group(
                g.code,
                [Member(m.name, m.root, m.rows) for m in g.members],
                Member("masks", g.masks.root, g.masks.rows),
                g.weights,
                g.point,
            )
            for g in self.groups
        ]
        member = Member("pads", self.pads.member.root, 0)
        pads = Pads(self.pad_code, member, self.pads.rows, self.pads.triples, self.pad_weights)
        transcript = VerifierTranscript("opening", self.kappa, proof)
        opening.verify(
            transcript, self.profile, groups, pads, self.known() if known is None else known
        )

    def rejection(self, proof: bytes, known: Scalar | None = None) -> str:
        with pytest.raises(VerificationError) as caught:
            self.verify(proof, known)
        return caught.value.check


def unchecked():
    """A prover that does not look whether its statement is true."""
    return mock.patch.object(opening_prover, "require_true")


class Tampering(ProverTranscript):
    """Changes one message before it is written, so that all later challenges fit the change.

    ``change`` is (type, number among the messages of that type, function of the message).
    """

    def write(self, kind, data):
        name, number, function = self.change
        if kind == name and self.inventory.get(kind, (0, 0))[0] == number:
            data = function(data)
        super().write(kind, data)


def add_one(word: int):
    """Add 1 mod p to the field element with this number."""

    def function(data: bytes) -> bytes:
        values = np.frombuffer(data, dtype="<u8").copy()
        values[word] = (int(values[word]) + 1) % P
        return values.tobytes()

    return function


def flip_bit(byte: int, bit: int):
    def function(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[byte] ^= 1 << bit
        return bytes(changed)

    return function


# Completeness ---------------------------------------------------------------------------------


@kappas
@pytest.mark.parametrize("groups", [GROUPS, [(2, [1])], [(3, [1, 1, 1]), (2, [4])]])
@pytest.mark.parametrize("triples", [0, 1, 2])
def test_honest_proofs_pass(kappa, groups, triples):
    instance = Instance(kappa, groups, triples)
    instance.verify(instance.prove())


def test_the_seed_fixes_the_proof():
    proofs = [Instance(seed=s).prove() for s in (1, 1, 2)]
    assert proofs[0] == proofs[1] != proofs[2]
    assert len(proofs[0]) > 1000


@kappas
def test_public_rows_need_no_blinding(kappa):
    code = Code(2, 0, 6)
    instance = Instance(kappa, [(2, [2, 1])], forced=code)
    assert instance.groups[0].code == code
    instance.verify(instance.prove())
    instance.values[0][1, 1] = (int(instance.values[0][1, 1]) + 1) % P
    assert instance.rejection(instance.prove()) == "linear test"


# The statement --------------------------------------------------------------------------------


@kappas
def test_a_wrong_public_part_is_rejected(kappa):
    instance = Instance(kappa)
    proof, known = instance.prove(), instance.known()
    for error in range(kappa):
        wrong = known + Scalar(int(i == error) for i in range(kappa))
        assert instance.rejection(proof, wrong) == "linear test"


@kappas
def test_other_committed_values_are_rejected(kappa):
    """The claim is about values the tableau does not hold; proved honestly for the tableau."""
    instance = Instance(kappa)
    instance.values[1][0, 3] = (int(instance.values[1][0, 3]) + 1) % P
    assert instance.rejection(instance.prove()) == "linear test"


def test_other_pads_are_rejected():
    instance = Instance()
    known = instance.known()
    instance.pad_values[:, -1, 0] = 5
    instance.commit_pads()
    assert instance.rejection(instance.prove(), known) == "linear test"


@kappas
@pytest.mark.parametrize("place", range(4))
def test_a_false_product_is_rejected(kappa, place):
    instance = Instance(kappa)
    instance.pad_values[0, 2, place] = (int(instance.pad_values[0, 2, place]) + 1) % P
    instance.commit_pads()
    assert instance.rejection(instance.prove()) == "product test"


def test_the_second_triple_row_counts():
    instance = Instance(triples=2)
    instance.pad_values[1, 5, 0] = (int(instance.pad_values[1, 5, 0]) + 1) % P
    instance.commit_pads()
    assert instance.rejection(instance.prove()) == "product test"


def test_masks_must_sum_to_zero():
    instance = Instance()
    instance.pad_mu = instance.pad_mu + 1
    instance.commit_pads()
    assert instance.rejection(instance.prove()) == "linear test"


@pytest.mark.parametrize("what", ["weights", "point"])
@pytest.mark.parametrize("group", [0, 1])
def test_proofs_for_another_functional_are_rejected(what, group):
    instance = Instance()
    proof = instance.prove()
    known = instance.known()
    array = getattr(instance.groups[group], what)
    array[0, 0] = (int(array[0, 0]) + 1) % P
    assert instance.rejection(proof, known) == "linear test"


def test_proofs_for_other_pad_weights_are_rejected():
    instance = Instance()
    proof, known = instance.prove(), instance.known()
    instance.pad_weights[1, 3, 2] = (int(instance.pad_weights[1, 3, 2]) + 1) % P
    assert instance.rejection(proof, known) == "pad linear test"


# Rows that are not codewords --------------------------------------------------------------------


def spoil(member: Member, row: int, rng) -> None:
    """Commit a random word in place of a codeword, and go on as if nothing had happened."""
    add_words(member, {row: random_field(rng, member.tableau.codewords.shape[1])})


def add_words(member: Member, errors: dict[int, np.ndarray]) -> None:
    """Commit codewords plus ``errors``; the coefficient rows stay as they are."""
    tableau = member.tableau
    words = tableau.codewords.copy()
    for row, error in errors.items():
        words[row] = gl.add(words[row], error)
    tableau.codewords = words
    leaves = [
        merkle.leaf_digest(words[:, j], tableau.nonces[j].tobytes()) for j in range(words.shape[1])
    ]
    tableau.levels = merkle.build(leaves)
    member.root = tableau.root


@pytest.mark.parametrize(("group", "member", "row"), [(0, 0, 1), (0, 1, 2), (1, 0, 0)])
def test_random_rows_are_rejected(group, member, row, rng):
    instance = Instance()
    spoil(instance.groups[group].members[member], row, rng)
    assert instance.rejection(instance.prove()) == "proximity test"


@pytest.mark.parametrize("row", [0, 2, 5])
def test_random_masks_are_rejected(row, rng):
    """Also the two summands of the linear mask are part of the proximity test."""
    instance = Instance()
    spoil(instance.groups[0].masks, row, rng)
    assert instance.rejection(instance.prove()) == "proximity test"


@pytest.mark.parametrize("row", [0, 7, 8, 10, 12, 14, 16])
def test_random_pad_rows_are_rejected(row, rng):
    """Four pad rows and five masks of two F-rows each, all of them tested."""
    instance = Instance()
    spoil(instance.pads.member, row, rng)
    assert instance.rejection(instance.prove()) == "pad proximity test"


def test_rows_of_too_high_degree_are_rejected():
    """One coefficient beyond the dimension of the code is one too many."""
    instance = Instance()
    group = instance.groups[0]
    code, old = group.code, group.members[0].tableau
    rows = np.concatenate([old.rows, np.ones((2, 1), dtype=np.uint64)], axis=1)
    high = Tableau(rows, code.log_length, old.nonces)
    high.rows = old.rows
    group.members[0] = Member("tableau 0", high.root, 2, high)
    assert instance.rejection(instance.prove()) == "proximity test"


@pytest.mark.parametrize("triples", [0, 1, 2])
def test_degrees_of_the_challenges(triples):
    """What the budget counts: the lengths of the codes, and 1 for what is one linear condition."""
    instance, transcript = Instance(triples=triples), Transcript("degrees", 2)
    drawn = opening.squeeze(transcript, instance.groups, instance.pads)
    assert transcript.squeezed == {
        "row combiner": [g.code.length for g in instance.groups],
        "pad row combiner": [instance.pad_code.length],
        "product combiner": [1 if triples else 0],
        "linear combiner": [1],
    }
    rows, pad_rows = instance.pad_values.shape[1], drawn.pad_rows.shape[1]
    assert [u.shape[1] for u in drawn.rows] == [5 + 2, 1 + 2] and pad_rows == rows + 4
    assert drawn.products.shape[1] == triples


# Challenges that the prover knows -----------------------------------------------------------------


def stopped_by(kind: str, how: str, check: str, lie) -> None:
    """``lie()``, an instance and the known part, passes if the challenges are foreseen, only then.

    It is proved anew under the challenges that the verifier will draw.
    """
    instance, known = lie()
    with foreseen(kind, how):
        instance.verify(instance.prove(), known)
    assert instance.rejection(instance.prove(), known) == check


def opposite(rng, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Two words far from every code that add up to zero."""
    word = random_field(rng, length)
    return word, gl.neg(word)


@kappas
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 4), (2, 3)])
def test_rows_whose_errors_cancel(kappa, how, first, second, rng):
    """Two rows of one group, in one tableau or two; the linear test weighs both alike."""

    def lie():
        instance = Instance(kappa)
        group = instance.groups[0]
        group.weights[:, first] = group.weights[:, second]
        for row, word in zip((first, second), opposite(rng, group.code.length), strict=True):
            member = 0 if row < 2 else 1
            add_words(group.members[member], {row - 2 * member: word})
        return instance, None

    stopped_by("row combiner", how, "proximity test", lie)


@kappas
def test_a_row_whose_error_the_proximity_mask_cancels(kappa, rng):
    """The mask has the weight 1; so would a row under a combiner of ones."""

    def lie():
        instance = Instance(kappa)
        group = instance.groups[0]
        group.weights[:, 1] = 0
        row, mask = opposite(rng, group.code.length)
        add_words(group.members[0], {1: row})
        add_words(group.masks, {0: mask})
        return instance, None

    stopped_by("row combiner", "one", "proximity test", lie)


@kappas
@pytest.mark.parametrize("how", HOW)
def test_pad_rows_whose_errors_cancel(kappa, how, rng):
    """Two rows of single pads, in the same component."""

    def lie():
        instance = Instance(kappa, singles=2)
        instance.pad_weights[:, 3] = instance.pad_weights[:, 4]
        words = opposite(rng, instance.pad_code.length)
        add_words(instance.pads.member, {3 * kappa: words[0], 4 * kappa: words[1]})
        return instance, None

    stopped_by("pad row combiner", how, "pad proximity test", lie)


@kappas
def test_a_pad_row_whose_error_the_proximity_mask_cancels(kappa, rng):
    def lie():
        instance = Instance(kappa)
        instance.pad_weights[:, 3] = 0
        words = opposite(rng, instance.pad_code.length)
        add_words(instance.pads.member, {3 * kappa: words[0], 4 * kappa: words[1]})
        return instance, None

    stopped_by("pad row combiner", "one", "pad proximity test", lie)


@kappas
@pytest.mark.parametrize("how", HOW)
def test_false_products_that_cancel(kappa, how):
    """The products of two rows of triples are wrong by opposite amounts at the same place."""

    def lie():
        instance = Instance(kappa, triples=2)
        for row, by in ((4, 1), (5, P - 1)):
            instance.pad_values[0, row, 2] = (int(instance.pad_values[0, row, 2]) + by) % P
        instance.commit_pads()
        return instance, None

    stopped_by("product combiner", how, "product test", lie)


@kappas
@pytest.mark.parametrize("where", ["group", "pads"])
def test_a_false_total_that_the_masks_repair(kappa, where):
    """The masks add up to minus the error, which is multiplied by zeta."""

    def lie():
        instance = Instance(kappa)
        known = instance.known() + 1
        if where == "pads":
            instance.pad_mu = instance.pad_mu - 1
            instance.commit_pads()
        else:
            masks = instance.groups[0].masks.tableau
            masks.rows[kappa, 3] = (int(masks.rows[kappa, 3]) - 1) % P  # W - 1 = 3, M0
            masks = Tableau(masks.rows, instance.groups[0].code.log_length, masks.nonces)
            instance.groups[0].masks = Member("masks", masks.root, masks.rows.shape[0], masks)
        return instance, known

    stopped_by("linear combiner", "one", "linear test", lie)


@pytest.mark.parametrize("group", [0, 1])
def test_a_word_that_is_right_in_the_foreseen_columns(group, rng):
    """A row that is no codeword, but agrees with one in the columns that will be opened."""
    instance = Instance()
    code = instance.groups[group].code
    count = queries_for(code, instance.profile)
    word = random_field(rng, code.length)
    word[:count] = 0
    add_words(instance.groups[group].members[0], {0: word})

    def first_columns(self, kind, count, bound):
        return np.arange(count)

    with mock.patch.object(Transcript, "distinct_indices", first_columns):
        instance.verify(instance.prove())
    assert instance.rejection(instance.prove()) == "proximity test"


# What masks hide ----------------------------------------------------------------------------------


class Seen(ProverTranscript):
    """Keeps responses and opened columns; challenges are in F and do not depend on the messages, so
    that every component of E can be looked at alone.
    """

    def __init__(self, label, kappa):
        super().__init__(label, kappa)
        self.values: dict[str, list[np.ndarray]] = {}

    def absorb(self, kind, data):
        if kind.startswith("squeeze"):
            super().absorb(kind, data)

    def challenge_vector(self, kind, n, degree=None):
        values = super().challenge_vector(kind, n, degree)
        values[1:] = 0
        return values

    def write_field(self, kind, values):
        self.values.setdefault(kind, []).append(values)
        super().write_field(kind, values)


def rank(rows: np.ndarray) -> int:
    """Of a matrix over F, by elimination."""
    rows, found = rows.copy(), 0
    for column in range(rows.shape[1]):
        pivots = np.flatnonzero(rows[found:, column])
        if not pivots.size:
            continue
        rows[[found, found + pivots[0]]] = rows[[found + pivots[0], found]]
        scaled = gl.mul(rows[found], np.uint64(pow(int(rows[found, column]), -1, P)))
        below = gl.mul(rows[found + 1 :, column : column + 1], scaled[None])
        rows[found + 1 :] = gl.sub(rows[found + 1 :], below)
        found += 1
        if found == len(rows):
            break
    return found


LOG_ROWS = (2, 4)  # of the group and of the pads, for the views


def mask_views(kappa: int, proofs: int) -> dict[str, np.ndarray]:
    """What the first component of each mask shows, one row a proof; proofs differ in entropy only.

    The linear and the product response consist of masks alone, seen with the masks' values in the
    opened columns. The proximity response is seen with everything else of its tableaux.
    """
    views: dict[str, list[np.ndarray]] = {}
    for seed in range(proofs):
        # Blinded rows would hide a mask that does not: they have no weight and no products.
        instance = Instance(kappa, [(LOG_ROWS[0], [1])], 0, seed, log_pad_row=LOG_ROWS[1])
        instance.groups[0].weights[:] = 0
        instance.pad_weights[:] = 0
        transcript = Seen("opening", kappa)
        opening_prover.prove(
            transcript, instance.profile, instance.groups, instance.pads, instance.known()
        )
        seen = transcript.values
        columns, masks, pads = seen["opened columns"]
        masks = masks.reshape(len(masks), 3, kappa)[:, :, 0]
        pads = pads.reshape(len(pads), -1, kappa)[:, :, 0]
        of_group = [seen["linear response"][0][0], masks, columns]
        of_pads = [seen["pad linear response"][0][0], seen["product response"][0][0], pads]
        for kind, others in (
            ("linear response", [masks[:, 1:]]),
            ("pad linear response", [pads[:, 2:4]]),
            ("product response", [pads[:, 4:]]),
            ("proximity response", of_group),
            ("pad proximity response", of_pads),
        ):
            parts = [seen[kind][0][0], *(o.reshape(-1) for o in others)]
            views.setdefault(kind, []).append(np.concatenate(parts))
    return {kind: np.stack(rows) for kind, rows in views.items()}


def test_masks_hide_all_that_they_can():
    """The view of a mask has full rank: all coefficients of the response, and for each opened
    column the values of its summands, tied to the response by one equation.
    """
    codes = [choose_code(log_row, 1, PROFILES[2]) for log_row in LOG_ROWS]
    k, w = codes[1].dimension, codes[1].row
    t, pad_t = (queries_for(code, PROFILES[2]) for code in codes)
    # As many coefficients as columns belong to both summands.
    assert t <= codes[0].dimension - (codes[0].row - 1)
    assert pad_t <= k - (w - 1) and pad_t <= k - (k - 1 - w)
    linear = codes[0].dimension + codes[0].row - 1 + t
    pad_linear, product = k + w - 1 + pad_t, 2 * k - 1 - w + pad_t
    expected = {
        "linear response": linear,
        "pad linear response": pad_linear,
        "product response": product,
        # One row, opened in as many columns as it has blinding.
        "proximity response": codes[0].dimension + linear + t,
        "pad proximity response": k + pad_linear + product + pad_t,
    }
    views = mask_views(2, max(expected.values()) + 5)
    assert {kind: rank(views[kind]) for kind in expected} == expected


# Messages of a prover that deviates -------------------------------------------------------------

RESPONSES = [
    ("proximity response", 0, 0, "proximity test"),
    ("proximity response", 0, -1, "proximity test"),
    ("proximity response", 1, 3, "proximity test"),
    ("linear response", 0, 0, "linear test"),
    ("linear response", 0, 3, "linear test"),  # W - 1 = 3: the coefficient that is summed
    ("linear response", 1, -1, "linear test"),
    ("pad proximity response", 0, 2, "pad proximity test"),
    ("pad linear response", 0, 1, "pad linear test"),
    ("pad linear response", 0, 4, "linear test"),  # a multiple of W = 4: enters the sum over H
    ("product response", 0, 0, "product test"),
    ("product response", 0, -1, "product test"),
]


@pytest.mark.parametrize(("kind", "number", "word", "check"), RESPONSES)
def test_changed_responses_are_rejected(kind, number, word, check):
    instance = Instance()
    assert instance.rejection(instance.prove((kind, number, add_one(word)))) == check


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("kind", ["opened columns", "nonces", "merkle path"])
def test_changed_columns_nonces_and_paths_are_rejected(kind, number):
    """Six tableaux: three members and two masks in two groups, and the pads."""
    instance = Instance()
    function = add_one(0) if kind == "opened columns" else flip_bit(5, 3)
    assert instance.rejection(instance.prove((kind, number, function))) == "merkle path"


@kappas
def test_the_prover_refuses_what_the_verifier_would(kappa):
    """A true statement is proved; with a total that is off by one nothing is opened."""
    instance = Instance(kappa)
    for offset in (0, 1):
        known = instance.known() + offset
        transcript = ProverTranscript("opening", instance.kappa)
        arguments = transcript, instance.profile, instance.groups, instance.pads, known
        if offset:
            with pytest.raises(WitnessError):
                opening_prover.prove(*arguments)
            assert "opened columns" not in transcript.inventory
        else:
            opening_prover.prove(*arguments)
            instance.verify(transcript.proof)


def test_a_compensated_total_is_still_rejected():
    """Changing the summed coefficients of two groups by opposite amounts keeps the total."""
    instance = Instance()

    class Both(ProverTranscript):
        def write_field(self, kind, values):
            if kind == "linear response":
                values = values.copy()
                first = "linear response" not in self.inventory
                place = instance.groups[0 if first else 1].code.row - 1
                values[0, place] = (int(values[0, place]) + (1 if first else P - 1)) % P
            super().write_field(kind, values)

    transcript = Both("opening", 2)
    with unchecked():
        opening_prover.prove(
            transcript, instance.profile, instance.groups, instance.pads, instance.known()
        )
    with pytest.raises(VerificationError, match="disagrees with an opened column") as caught:
        instance.verify(transcript.proof)
    assert caught.value.check == "linear test"


def test_another_root_is_rejected():
    instance = Instance()
    proof = instance.prove()
    member = instance.groups[0].members[1]
    member.root = flip_bit(31, 7)(member.root)
    assert instance.rejection(proof) == "merkle path"


# The bytes of the proof -------------------------------------------------------------------------


def test_every_truncation_is_rejected():
    instance = Instance()
    proof = instance.prove()
    for left in (0, 1, 8, len(proof) // 2, len(proof) - 32, len(proof) - 1):
        assert instance.rejection(proof[:left]) == "proof length"


def test_trailing_bytes_are_rejected():
    instance = Instance()
    for tail in (b"\0", b"\0" * 32):
        assert instance.rejection(instance.prove() + tail) == "proof length"


@pytest.mark.parametrize("number", [P, 2**64 - 1])
@pytest.mark.parametrize(
    "kind",
    [
        "proximity response",
        "linear response",
        "pad proximity response",
        "pad linear response",
        "product response",
        "opened columns",
    ],
)
def test_non_canonical_numbers_are_rejected(kind, number):
    """A number of p or more is rejected before anything is computed with it."""
    instance = Instance()

    def function(data):
        values = np.frombuffer(data, dtype="<u8").copy()
        values[0] = number
        return values.tobytes()

    assert instance.rejection(instance.prove((kind, 0, function))) == "canonical encoding"


def test_flipped_bits_anywhere_are_rejected(rng):
    instance = Instance(groups=[(2, [1])])
    proof = instance.prove()
    for byte in rng.choice(len(proof), size=25, replace=False):
        assert instance.rejection(flip_bit(int(byte), int(rng.integers(8)))(proof))


# Parts ------------------------------------------------------------------------------------------


@kappas
def test_reversed_eq(kappa, rng):
    point = random_field(rng, (kappa, 3))
    weights = [eq_weight(elements(point), v, kappa) for v in cube(3)][::-1]
    assert elements(opening_prover.reversed_eq(point)) == weights
    points = random_field(rng, 5)
    rows = list(zip(*weights, strict=True))
    expected = [tuple(horner(row, z) for row in rows) for z in ints(points)]
    assert elements(opening.reversed_eq_at(point, points)) == expected


@kappas
def test_group_masks(kappa):
    """Rows of the code; coefficient W - 1 of M0 + X^(W-1) M1 is mu."""
    code, mu = Code(2, 5, 6), Scalar(range(7, 7 + kappa))
    rows = opening_prover.group_masks(code, mu, SeededEntropy(1)).reshape(3, kappa, code.dimension)
    total = opening.shifted_sum(rows[1], rows[2], code.row - 1)
    assert total.shape == (kappa, code.dimension + code.row - 1)
    assert elements(total[:, code.row - 1 : code.row]) == [mu.coefficients]
    z = np.array([3, P - 2], dtype=np.uint64)
    parts = ntt.evaluate(rows[1], z), ntt.evaluate(rows[2], z)
    direct = opening.shifted_sum_at(*parts, code.row - 1, z)
    assert np.array_equal(direct, ntt.evaluate(total, z))


@kappas
def test_pad_tableau_rows(kappa):
    """Pads interpolate their values on H; the linear mask sums to mu over H."""
    instance = Instance(kappa)
    code, w = instance.pad_code, instance.pad_code.row
    k, r = code.dimension, instance.pad_values.shape[1]
    rows = instance.pads.member.tableau.rows.reshape(-1, kappa, k)
    assert rows.shape[0] == r + opening.PAD_MASK_ROWS
    nodes = gl.powers(gl.root_of_unity(code.log_row), w)
    for i in range(r):
        assert np.array_equal(ntt.evaluate(rows[i], nodes), instance.pad_values[:, i])
    mask = opening.shifted_sum(rows[r + 1], rows[r + 2], w - 1)
    total = [sum(ints(c)) % P for c in ntt.evaluate(mask, nodes)]
    assert tuple(total) == instance.pad_mu.coefficients


@kappas
@pytest.mark.parametrize("parts", [1, 2, 5])
def test_split_mu(kappa, parts):
    mus = [m.coefficients for m in opening_prover.split_mu(parts, kappa, SeededEntropy(4))]
    assert len(mus) == len(set(mus)) == parts
    assert e_sum(mus, kappa) == embed(0, kappa)
