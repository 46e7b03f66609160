"""Users with a token each: quotas, revocation, and what a refused query costs."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from adapter.common import Raw, activations, committed, contributor, counting, drive, ends, sites
from adapter.test_network import (  # noqa: F401
    PATIENCE,
    Server,
    certificates,
    cut,
    fails,
    finish_raw,
    wait_until,
)
from zkjax.errors import OptionError, SessionError, ZkjaxError
from zkjax.proofs.adapter import accounts, frames
from zkjax.proofs.adapter import server as server_module
from zkjax.proofs.adapter.accounts import REFUSALS, Account, Grant, Users
from zkjax.proofs.adapter.leakage import Leakage
from zkjax.proofs.adapter.peer import Peer
from zkjax.proofs.adapter.record import Limits

NOTHING = Grant("")


def granted(
    folder: Path, name: str, limits: Grant = NOTHING, leakage: Leakage | None = None
) -> str:
    leakage = leakage or Leakage(committed()[1], 1.0)
    return accounts.grant(folder / accounts.USERS, name, limits, leakage)


def of(folder: Path) -> Users:
    return Users(folder / accounts.USERS)


class Asked(Raw):
    """A user with an account who builds its frames itself."""

    def __init__(self, owner, users: Users, name: str):
        super().__init__(owner)
        self.session = owner.session(Account(users, name, owner.leakage))


def test_every_user_has_a_token_of_its_own(tmp_path, certificates):  # noqa: F811
    """Known by it, each with its own places; a token is nowhere in the files."""
    tokens = {n: granted(tmp_path, n, Grant("", sessions=1)) for n in ("alice", "bob")}
    text = (tmp_path / accounts.USERS).read_text()
    assert not any(token in text for token in tokens.values())
    assert (tmp_path / accounts.USERS).stat().st_mode & 0o077 == 0
    users = of(tmp_path)
    assert [users.named(t) for t in tokens.values()] == ["alice", "bob"]
    for wrong in ("", "x", tokens["bob"][:-1], tokens["bob"] + "x", "\udcff"):
        assert users.named(wrong) is None
    with Server(contributor(), certificates["server"], users) as server:
        first = server.channel(tokens["alice"])
        with fails("busy"):
            server.channel(tokens["alice"])
        server.channel(tokens["bob"]).close()
        first.close()
        server.reported("opened by alice")
        server.reported("too many sessions of this user")


def test_a_token_that_is_revoked(tmp_path, certificates):  # noqa: F811
    """A running server knows it: no new connection, and the next query ends the session."""
    token, other = granted(tmp_path, "alice"), granted(tmp_path, "bob")
    with Server(contributor(), certificates["server"], of(tmp_path), token=token) as server:
        peer = server.peer()
        peer.deltas(0, "attention", activations(16))
        accounts.revoke(tmp_path / accounts.USERS, "alice")
        with ends("refused", "token: it was revoked"):
            peer.deltas(0, "attention", activations(16))
        with fails("token"):
            server.channel()
        server.channel(other).close()
        late = granted(tmp_path, "carol")
        server.channel(late).close()
    with pytest.raises(OptionError, match="users are alice, bob, carol"):
        accounts.revoke(tmp_path / accounts.USERS, "dave")


def test_another_token_for_a_user(tmp_path):
    """The old one is no longer valid, and ends its sessions; what was had stays counted."""
    leakage = Leakage(committed()[1], 1.0)
    owner = contributor(leakage=leakage)
    old = granted(tmp_path, "alice", Grant("", tokens=4), leakage)
    users = of(tmp_path)
    raw = Asked(owner, users, "alice").open().ask_all(3)
    new = granted(tmp_path, "alice", Grant("", tokens=4), leakage)
    assert users.named(old) is None and users.named(new) == "alice"
    raw.refused(raw.tell(frames.Query(0, "inner", activations(24))), "token")
    assert Account(users, "alice", leakage).had() == {"tokens": 3, "proofs": 0, "refusals": 0}
    again = Asked(owner, users, "alice").open().ask_all(1)
    again.refused(again.tell(frames.Query(0, "inner", activations(24, 1))), "quota")


def test_quotas_hold_over_sessions_and_restarts(tmp_path):
    """So many tokens and proofs in all, for this user alone."""
    granted(tmp_path, "alice", Grant("", tokens=5, proofs=1))
    granted(tmp_path, "bob")
    path = tmp_path / "counts"
    owner = contributor(leakage=counting(1.0, path))
    raw = Asked(owner, of(tmp_path), "alice").open().ask_all(2)
    assert isinstance(raw.tell(frames.Finish(raw.digest.value)), frames.ProofFrame)
    owner = contributor(leakage=counting(1.0, path))
    raw = Asked(owner, of(tmp_path), "alice").open().ask_all(2)
    with mock.patch.object(owner, "prove", side_effect=AssertionError):
        raw.refused(raw.tell(frames.Finish(raw.digest.value)), "quota")
    assert Account(of(tmp_path), "alice", owner.leakage).had()["proofs"] == 1
    assert owner.sealed.remaining == 40
    raw = Asked(owner, of(tmp_path), "alice").open().ask_all(1)
    with mock.patch.object(owner, "deltas", side_effect=AssertionError):
        raw.refused(raw.tell(frames.Query(0, "inner", activations(24, 1))), "quota")
    Asked(owner, of(tmp_path), "bob").open().ask_all(9)
    assert Account(of(tmp_path), "alice", owner.leakage).had()["tokens"] == 5


def test_one_query_beyond_a_quota_counts_nothing(tmp_path):
    granted(tmp_path, "alice", Grant("", tokens=1))
    owner = contributor()
    raw = Asked(owner, of(tmp_path), "alice").open()
    rows = len(sites(owner.manifest)) + 1
    raw.refused(raw.tell(frames.Query(0, "attention", activations(16, rows))), "quota")
    assert not owner.leakage.ledger.totals


def test_probing_costs_the_prober(tmp_path):
    """A query that is refused because it would tell too much says something of what others asked.
    It is counted as if it were answered, and after a few the token is closed.
    """
    owner = contributor(leakage=Leakage(committed()[1], 0.5))
    owner.leakage.admit(0, "attention", np.eye(16, dtype=np.int16)[:6])
    granted(tmp_path, "mallory", Grant("", tokens=1000), owner.leakage)
    granted(tmp_path, "bob", NOTHING, owner.leakage)
    users, counted = of(tmp_path), 0
    for rows in (7, 5, 4, 3)[:REFUSALS]:
        raw = Asked(owner, users, "mallory").open()
        raw.refused(raw.tell(frames.Query(0, "attention", activations(16, rows))), "leakage")
        counted += rows
        assert owner.leakage.ledger["user mallory rows"] == counted
    raw = Asked(owner, users, "mallory").open()
    raw.refused(raw.tell(frames.Query(0, "attention", activations(16, 1))), "quota")
    raw = Asked(owner, users, "mallory").open()
    raw.refused(raw.tell(frames.Query(1, "attention", activations(16, 1))), "quota")
    assert owner.leakage.ledger["0/attention tokens"] == 6  # others lose nothing
    assert isinstance(
        Asked(owner, users, "bob").open().tell(frames.Query(0, "attention", activations(16, 2))),
        frames.Answer,
    )
    granted(tmp_path, "mallory", Grant("", tokens=1000), owner.leakage)
    raw = Asked(owner, users, "mallory").open()
    assert isinstance(raw.tell(frames.Query(1, "attention", activations(16, 1))), frames.Answer)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"alice": 3}',
        '{"alice": {}}',
        '{"alice": {"token": "x", "more": 1}}',
        '{"alice": {"token": "x", "proofs": -1}}',
        '{"alice": {"token": "x", "proofs": NaN}}',
        '{"a b": {"token": "x"}}',
        '{"alice": {"token": "x"}, "alice": {"token": "y"}}',
    ],
)
def test_a_damaged_file_of_users(tmp_path, certificates, text):  # noqa: F811
    """Nobody is known, and the owner hears why."""
    token = granted(tmp_path, "alice")
    with Server(contributor(), certificates["server"], of(tmp_path), token=token) as server:
        server.channel().close()
        (tmp_path / accounts.USERS).write_text(text)
        with fails("token"):
            server.channel()
        server.reported(accounts.USERS)
    with pytest.raises(ZkjaxError):
        of(tmp_path)


@pytest.mark.parametrize("name", ["", "a b", "-x", "x" * 65, "ä", "../x", "a\n"])
def test_a_name_that_is_none(tmp_path, name):
    with pytest.raises(OptionError):
        granted(tmp_path, name)
    assert not (tmp_path / accounts.USERS).exists()


def test_a_user_who_is_not_there(tmp_path):
    """No grant is no token: neither in the file nor in a session that began before."""
    granted(tmp_path, "alice")
    users = of(tmp_path)
    account = Account(users, "alice", Leakage(committed()[1], 1.0))
    (tmp_path / accounts.USERS).unlink()
    assert users.grants() == {}
    with pytest.raises(SessionError, match="revoked"):
        account.count_proof()


def test_a_shared_token_has_no_limits():
    owner = contributor()
    users = Users(shared="one for all")
    assert users.named("one for all") == "everybody" and users.named("") is None
    raw = Asked(owner, users, "everybody").open().ask_all(4)
    assert isinstance(raw.tell(frames.Finish(raw.digest.value)), frames.ProofFrame)


def test_who_leaves_its_proofs_waits_longer(tmp_path, certificates):  # noqa: F811
    """The next proof of a user who did not wait for one comes after that of others."""
    tokens = {n: granted(tmp_path, n) for n in ("alice", "bob")}
    owner, order = contributor(), []
    honest = owner.prove

    def prove(record, wanted):
        order.append(record.session)
        return honest(record, wanted)

    with (
        Server(owner, certificates["server"], of(tmp_path)) as server,
        mock.patch.object(server_module, "FAULT_SECONDS", 2.0),
        mock.patch.object(owner, "prove", prove),
    ):
        peers = []
        for i, name in enumerate(("alice", "alice", "bob")):
            peers.append(Peer(server.channel(tokens[name]), name))
            drive(peers[-1], seed=i)
        gate = threading.Event()
        owner.progress = lambda phase: gate.wait(PATIENCE)
        finish_raw(peers[0])
        wait_until(lambda: order)
        cut(peers[0].channel)
        server.reported("ended (disconnected)")
        gate.set()
        digests = [peer.digest for peer in peers]
        users = [threading.Thread(target=peer.finish) for peer in peers[1:]]
        for user in users:
            user.start()
            time.sleep(0.3)
        for user in users:
            user.join(PATIENCE)
    assert order == [digests[0], digests[2], digests[1]]


@pytest.mark.parametrize("sent", [b"noise", bytes((1 << 20) + 1)], ids=["malformed", "too large"])
def test_who_was_refused_a_frame_waits_longer(tmp_path, certificates, sent):  # noqa: F811
    """The next session of a user that sent what no user sends begins after that of others, and a
    proof that it waits for makes up for it.
    """
    tokens = {n: granted(tmp_path, n) for n in ("alice", "bob")}
    owner, began = contributor(limits=Limits(frame_bytes=1 << 20)), []

    def begin(name: str) -> Peer:
        peer = Peer(server.channel(tokens[name]), name)
        began.append(name)
        return peer

    with (
        Server(owner, certificates["server"], of(tmp_path)) as server,
        mock.patch.object(server_module, "FAULT_SECONDS", 1.0),
    ):
        server.channel(tokens["alice"]).send(sent)
        server.reported("ended (")
        alice = threading.Thread(target=begin, args=("alice",))
        alice.start()
        time.sleep(0.3)
        begin("bob")
        alice.join(PATIENCE)
        assert began == ["bob", "alice"]
        peer = begin("alice")
        drive(peer)
        peer.finish()
        began.clear()
        with mock.patch.object(server_module, "FAULT_SECONDS", 1000.0):
            begin("alice")
    assert began == ["alice"]


def test_who_refuses_its_own_proof_has_left_it(tmp_path, certificates):  # noqa: F811
    """A refusal while the proof is made is no way around the wait."""
    tokens = {n: granted(tmp_path, n) for n in ("alice", "bob")}
    owner, began, gate = contributor(), [], threading.Event()
    owner.progress = lambda phase: gate.wait(PATIENCE)

    def begin(name: str) -> Peer:
        peer = Peer(server.channel(tokens[name]), name)
        began.append(name)
        return peer

    with (
        Server(owner, certificates["server"], of(tmp_path)) as server,
        mock.patch.object(server_module, "FAULT_SECONDS", 1.0),
    ):
        peer = begin("alice")
        drive(peer)
        finish_raw(peer)
        time.sleep(0.5)
        refusal = frames.Refusal("refused", "not wanted any more")
        peer.channel.send(frames.encode(refusal, peer._sent + 1))
        server.reported("ended (")
        gate.set()
        began.clear()
        alice = threading.Thread(target=begin, args=("alice",))
        alice.start()
        time.sleep(0.3)
        begin("bob")
        alice.join(PATIENCE)
    assert began == ["bob", "alice"]
