"""A sealed value is opened as often as it was made for, whoever holds a copy of it."""

from __future__ import annotations

import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest

import zkjax
from zkjax import Sealed
from zkjax import seal as seal_module
from zkjax.argument import opening, opening_prover
from zkjax.argument.transcript import ProverTranscript
from zkjax.errors import SealError

X = np.array([11, -22, 33], dtype=np.int8)


def double(x):
    return (x.astype(jnp.float64) * 2.0).astype(jnp.int16)


def refused_before_anything_is_written(sealed) -> None:
    """``prove`` raises SealError; not one byte of a proof has been written, not one column read."""
    with (
        mock.patch.object(ProverTranscript, "write") as write,
        mock.patch.object(seal_module.Tableau, "columns") as columns,
        pytest.raises(SealError),
    ):
        zkjax.prove(double)(sealed)
    write.assert_not_called()
    columns.assert_not_called()


def test_a_spent_value_is_refused():
    """In memory: two openings, then none."""
    sealed = zkjax.seal(X, openings=2)
    zkjax.prove(double)(sealed)
    zkjax.prove(double)(sealed)
    assert sealed.remaining == 0
    refused_before_anything_is_written(sealed)


@pytest.mark.parametrize("openings", [0, -1, 1 << 17])
def test_a_number_of_openings_that_cannot_be(openings):
    with pytest.raises(SealError, match="openings"):
        zkjax.seal(X, openings=openings)


def test_an_opening_is_taken_even_if_the_proof_fails():
    """A proof that breaks off after its columns may have been seen counts."""
    sealed = zkjax.seal(X, openings=1)
    with (
        mock.patch.object(opening_prover, "prove", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        zkjax.prove(double)(sealed)
    refused_before_anything_is_written(sealed)


def test_copies_of_a_file_share_their_openings(tmp_path):
    """Loaded twice and kept in memory too: one counter, on disk."""
    sealed = zkjax.seal(X, openings=2)
    sealed.save(tmp_path / "x")
    first, second = (Sealed.load(tmp_path / "x", like=X) for _ in range(2))
    zkjax.prove(double)(first)
    zkjax.prove(double)(second)
    for copy in (sealed, first, second, Sealed.load(tmp_path / "x", like=X)):
        refused_before_anything_is_written(copy)


def test_another_process_spends_the_same_counter(tmp_path):
    """A process of its own takes the only opening."""
    sealed = zkjax.seal(X, openings=1)
    sealed.save(tmp_path / "x")
    script = (
        "import sys, numpy as np; from zkjax import Sealed;"
        "Sealed.load(sys.argv[1], like=np.zeros(3, np.int8)).spend()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "x")]
    subprocess.run(command, check=True)
    refused_before_anything_is_written(sealed)
    assert subprocess.run(command, capture_output=True).returncode != 0


def test_a_lost_or_damaged_counter_is_no_counter(tmp_path):
    """Without its counter a sealed file cannot be opened."""
    sealed = zkjax.seal(X, openings=3)
    sealed.save(tmp_path / "x")
    counter = tmp_path / "x.openings"
    counter.write_text("many")
    refused_before_anything_is_written(sealed)
    counter.unlink()
    refused_before_anything_is_written(sealed)
    with pytest.raises(SealError):
        sealed.save(tmp_path / "x")
    with pytest.raises(SealError):
        Sealed.load(tmp_path / "x", like=X)


def test_a_copy_under_another_name_is_not_saved(tmp_path):
    """``save`` to a second place would give the copy openings of its own."""
    sealed = zkjax.seal(X, openings=1)
    sealed.save(tmp_path / "x")
    with pytest.raises(SealError):
        sealed.save(tmp_path / "y")
    with pytest.raises(SealError):
        Sealed.load(tmp_path / "x", like=X).save(tmp_path / "y")


def test_saving_again_gives_no_opening_back(tmp_path):
    """The value in memory has not seen that its copy on disk was spent."""
    sealed = zkjax.seal(X, openings=1)
    sealed.save(tmp_path / "x")
    Sealed.load(tmp_path / "x", like=X).spend()
    sealed.save(tmp_path / "x")
    refused_before_anything_is_written(sealed)


def test_saving_while_others_open_gives_no_opening_back(tmp_path):
    """One owner saves again and again, from a memory in which nothing was spent."""
    sealed = zkjax.seal(X, openings=60)
    sealed.save(tmp_path / "x")
    copies = [Sealed.load(tmp_path / "x", like=X) for _ in range(2)]
    done = threading.Event()

    def save() -> None:
        while not done.is_set():
            sealed.counter.left = 60
            sealed.save(tmp_path / "x")

    def spend(copy: Sealed) -> int:
        for count in range(200):
            try:
                copy.spend()
            except SealError:
                return count
        return 200

    with ThreadPoolExecutor(3) as pool:
        saving = pool.submit(save)
        granted = sum(pool.map(spend, copies))
        done.set()
        saving.result()
    assert granted == 60


def test_many_owners_at_the_same_moment(tmp_path):
    """Eight copies of one file spend at once; three openings serve exactly three of them."""
    zkjax.seal(X, openings=3).save(tmp_path / "x")
    copies = [Sealed.load(tmp_path / "x", like=X) for _ in range(8)]
    together = threading.Barrier(len(copies))

    def spend(copy: Sealed) -> bool:
        together.wait()
        try:
            copy.spend()
        except SealError:
            return False
        return True

    with ThreadPoolExecutor(len(copies)) as pool:
        assert sum(pool.map(spend, copies)) == 3


def test_sealed_files_are_private(tmp_path):
    """Mode 0600 for the data and for the counter, also after an opening."""
    sealed = zkjax.seal(X, openings=2)
    sealed.save(tmp_path / "x")
    sealed.spend()
    for name in ("x", "x.openings"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_damaged_file_is_refused(tmp_path):
    """Data that do not give the commitment are not opened."""
    sealed = zkjax.seal(X)
    sealed.save(tmp_path / "x")
    with np.load(tmp_path / "x") as data:
        arrays = dict(data)
    arrays["leaf0"] = arrays["leaf0"] + np.int8(1)
    with (tmp_path / "x").open("wb") as file:
        np.savez(file, **arrays)
    with pytest.raises(SealError):
        Sealed.load(tmp_path / "x", like=X)


def opened_positions(root: bytes, calls) -> set[int]:
    """All column positions of one commitment that a verifier is shown."""
    seen: set[int] = set()
    read = opening._read_columns

    def recorded(transcript, member, rows, log_length, indices):
        if member.root == root:
            seen.update(int(i) for i in indices)
        return read(transcript, member, rows, log_length, indices)

    with mock.patch.object(opening, "_read_columns", recorded):
        for check in calls:
            check()
    return seen


def test_a_sealed_input_shows_no_more_than_its_blinding():
    """All proofs that a commitment allows show at most as many columns as a row has blinding."""
    sealed = zkjax.seal(X, openings=2)
    proofs = [zkjax.prove(double)(sealed)[1] for _ in range(2)]
    calls = [lambda p=p: zkjax.verify(double)(sealed.commitment, proof=p) for p in proofs]
    seen = opened_positions(sealed.commitment.root, calls)
    assert len(seen) <= sealed.commitment.code.blinding


def test_a_sealed_output_shows_no_more_than_its_blinding():
    """Its own proof and all later ones: with one column more, rows can be interpolated."""
    sealed = zkjax.seal(X, openings=1)
    made, proof = zkjax.prove(double, sealed_outputs=True, openings=1)(sealed)
    calls = [lambda: zkjax.verify(double, sealed_outputs=True)(sealed.commitment, proof=proof)]
    while made.remaining:
        _, later = zkjax.prove(double)(made)
        calls.append(lambda p=later: zkjax.verify(double)(made.commitment, proof=p))
    seen = opened_positions(made.commitment.root, calls)
    assert len(seen) <= made.commitment.code.blinding
