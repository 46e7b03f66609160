"""A user who shares one opening twice: the contributor proves about it once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import zkjax
from adapter.common import Raw, committed, contributor, counting
from zkjax import openings
from zkjax.errors import SessionError
from zkjax.proofs.adapter import frames
from zkjax.proofs.adapter.contributor import Contributor
from zkjax.proofs.adapter.leakage import Leakage


def asked(owner: Contributor) -> Raw:
    """A session in which everything was asked, always about the same activations."""
    return Raw(owner).open().ask_all()


def shared() -> tuple[bytes, bytes]:
    """Commitments and secrets of such a session; sealed for two proofs, as users do."""
    record = asked(contributor()).session.record
    values = [zkjax.seal(tree, openings=2) for tree in (record.xs, record.deltas)]
    identities = json.dumps([v.commitment.identity() for v in values]).encode()
    return identities, b"".join(v.share() for v in values)


def finish(raw: Raw, given: tuple[bytes, bytes]) -> frames.Frame | None:
    return raw.tell(frames.FinishSealed(raw.digest.value, *given))


def test_the_same_secrets_in_two_sessions():
    """The second proof is refused, costs the contributor nothing, and is no answer to the first."""
    owner, given = contributor(), shared()
    assert isinstance(finish(asked(owner), given), frames.ProofFrame)
    raw = asked(owner)
    raw.refused(finish(raw, given), "commitments")
    assert owner.sealed.remaining == 39
    assert isinstance(finish(asked(owner), shared()), frames.ProofFrame)  # fresh ones will do


def test_the_same_secrets_after_a_restart(tmp_path):
    """What was used is on disk before the proof leaves."""
    owner, given = contributor(), shared()
    owner.received = tmp_path
    assert isinstance(finish(asked(owner), given), frames.ProofFrame)
    again = contributor()
    again.received = tmp_path
    raw = asked(again)
    with mock.patch.dict(openings._received, clear=True):  # as in a process of its own
        raw.refused(finish(raw, given), "commitments")
    assert owner.sealed.remaining == 40  # restored by ``contributor``, and not taken again


def test_the_same_secrets_at_the_same_time():
    """Both sessions have reopened them before the first proof is made."""
    owner, given = contributor(), shared()
    first, second = asked(owner), asked(owner)
    prove, replies = owner.prove_sealed, []

    def overtaken(*args):
        if not replies:
            replies.append(None)
            replies[0] = finish(second, given)
        return prove(*args)

    with mock.patch.object(owner, "prove_sealed", overtaken):
        first.refused(finish(first, given), "commitments")
    assert isinstance(replies[0], frames.ProofFrame)
    assert owner.sealed.remaining == 39


def test_a_proof_that_fails_leaves_the_opening():
    """Nothing has left, so the same secrets may be tried again."""
    owner, given = contributor(), shared()
    raw = asked(owner)
    with mock.patch("zkjax.prove.opening_prover.prove", side_effect=RuntimeError):
        raw.refused(finish(raw, given), "internal")
    assert owner.sealed.remaining == 40
    assert isinstance(finish(asked(owner), given), frames.ProofFrame)


def test_a_contributor_that_is_used_up_says_so():
    owner, given = contributor(), shared()
    raw = asked(owner)
    real = owner.prove_sealed

    def overtaken(*args):
        owner.sealed.counter.left = 0
        return real(*args)

    with mock.patch.object(owner, "prove_sealed", overtaken):
        raw.refused(finish(raw, given), "openings")


# Counts of what has leaked ------------------------------------------------------------------------


def unit(*rows: int) -> np.ndarray:
    return np.eye(16, dtype=np.int16)[list(rows)]


def test_two_counters_of_one_file_add_up(tmp_path):
    """Two servers of one folder: neither forgets what the other has answered."""
    path = tmp_path / "leakage.json"
    first, second = (counting(0.5, path) for _ in range(2))
    for i in range(4):
        first.admit(0, "attention", unit(2 * i))
        second.admit(0, "attention", unit(2 * i + 1))
    for leakage in (first, second):
        with pytest.raises(SessionError, match="leakage"):
            leakage.admit(0, "attention", unit(8))
    assert counting(0.5, path).summary()["0/attention"]["tokens"] == 8


def test_a_count_that_cannot_be_written_answers_nothing(tmp_path):
    """A full disk: the query is not answered, and not counted either."""
    path = tmp_path / "leakage.json"
    leakage = counting(0.5, path)
    leakage.admit(0, "attention", unit(0))
    before, text = leakage.summary(), path.read_bytes()
    raw = Raw(contributor(leakage=leakage)).open()
    with mock.patch("os.write", side_effect=OSError(28, "No space left on device")):
        reply = raw.tell(frames.Query(0, "attention", unit(1)))
    raw.refused(reply, "internal")
    assert leakage.summary() == before and path.read_bytes() == text
    leakage.admit(0, "attention", unit(1))
    assert leakage.dimension(0, "attention") == 2


COUNTER = """
import sys
from pathlib import Path
import numpy as np
from zkjax.proofs.adapter.leakage import Leakage
from zkjax.proofs.adapter.manifest import Manifest

folder = Path(sys.argv[1])
leakage = Leakage(Manifest.decode((folder / "manifest.json").read_bytes()), 1.0, folder / "counts")
print("ready", flush=True)
while True:
    leakage.admit(0, "attention", np.ones((1, 16), np.int16))
    print("answered", flush=True)
"""


def test_a_server_that_is_killed_forgets_no_answer(tmp_path):
    """Whatever was answered before the kill is counted after it."""
    manifest = committed()[1]
    (tmp_path / "manifest.json").write_bytes(manifest.encode())
    counting(1.0, tmp_path / "counts")
    command = [sys.executable, "-c", COUNTER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(30):
            process.stdout.readline()
        process.kill()
        answered = 29 + process.stdout.read().count("answered")
    counts = Leakage(manifest, 1.0, Path(tmp_path / "counts")).summary()["0/attention"]
    assert answered <= counts["tokens"] <= answered + 1
