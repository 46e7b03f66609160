"""Every argument of ``zkjax.proofs.adapter``, times bad values (``arguments``)."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from arguments import FOLDER, Calls, Example, new_path, saved

import zkjax
from adapter.common import CONFIG, LAYERS, committed, contributor, weights
from zkjax.errors import SessionError
from zkjax.models.config import LoraConfig
from zkjax.models.peft import save_adapter
from zkjax.models.registry import parameter_shapes
from zkjax.proofs import adapter
from zkjax.proofs.adapter.accounts import Grant, Users, grant
from zkjax.proofs.adapter.credentials import make_certificate, make_token, server_context
from zkjax.proofs.adapter.inference import Inference, Part
from zkjax.proofs.adapter.manifest import Manifest
from zkjax.proofs.adapter.record import Record
from zkjax.proofs.adapter.session import Session

HOME = "zkjax.proofs.adapter"
MODULES = (HOME, *(f"{HOME}.{name}" for name in ("accounts", "credentials", "inference")))
TOKENS = np.array([[1, 2, 3]], np.int32)
FOREIGN = TOKENS + CONFIG.vocab_size  # of no use, so that nothing is computed


def manifest() -> Manifest:
    return committed()[1]


def leakage() -> adapter.Leakage:
    return adapter.Leakage(manifest())


@cache
def base() -> Any:
    return jax.tree.map(lambda x: np.zeros(x.shape, np.int16), parameter_shapes(CONFIG))


@cache
def session() -> Session:
    return Session(CONFIG, base(), {})


@cache
def credentials() -> Path:
    make_certificate(FOLDER / "tls")
    make_token(FOLDER / "tls" / "token")
    return FOLDER / "tls"


@cache
def tls() -> Any:
    return server_context(credentials() / "certificate.pem", credentials() / "key.pem")


def write_peft(path: Path) -> None:
    values = jax.tree.map(lambda w: w * 2.0**-12, weights())
    save_adapter(path, values, LoraConfig(r=2, alpha=4.0, targets=tuple(values)), "base")


def write_committed(path: Path) -> None:
    adapter.commit_folder(saved("values", write_peft), path, sessions=1)


def write_users(path: Path) -> None:
    grant(path, "alice", Grant(""), leakage())


@cache
def record() -> Record:
    """Of a session of one token, in which all is zero; its proof is none."""
    told = Record(manifest())
    for layer in LAYERS:
        for group in manifest().groups():
            x = np.zeros((1, manifest().inputs(group)), np.int16)
            told.add(layer, group, x, np.zeros((1, manifest().outputs(group)), np.int32))
    told.proof, told.session = SimpleNamespace(body=b""), bytes(32)  # type: ignore[assignment]
    return told


@cache
def inference() -> Inference:
    """Whose proofs are none."""
    some = manifest().commitment
    part = Part(manifest(), some, some, b"", bytes(32))
    return Inference(CONFIG, base(), TOKENS, 0, b"", [part], "s100")


@contextlib.asynccontextmanager
async def never():
    raise SessionError("options", "it serves nothing here")
    yield 0


EXAMPLES: dict[str, Example] = {
    f"{HOME}.Contributor": lambda: {"sealed": committed()[0], "manifest": manifest()},
    f"{HOME}.Contributor.session": lambda: {"self": contributor()},
    f"{HOME}.Leakage": lambda: {"manifest": manifest()},
    f"{HOME}.Leakage.dimension": lambda: {"self": leakage(), "layer": 0, "group": "attention"},
    f"{HOME}.Leakage.fraction": lambda: {"self": leakage(), "layer": 0, "group": "attention"},
    f"{HOME}.Leakage.told": lambda: {"self": leakage(), "layer": 0, "group": "attention"},
    f"{HOME}.Limits": lambda: {},
    f"{HOME}.Manifest": lambda: vars(manifest()).copy(),
    f"{HOME}.Manifest.decode": lambda: {"data": manifest().encode()},
    f"{HOME}.Manifest.require_base": lambda: {"self": manifest(), "config": CONFIG},
    f"{HOME}.Manifest.require_digest": lambda: {
        "self": manifest(), "expected": manifest().digest
    },
    f"{HOME}.Record": lambda: {"manifest": manifest()},
    f"{HOME}.Record.load": lambda: {"folder": saved("record", record().save)},
    f"{HOME}.Record.save": lambda: {"self": record(), "folder": new_path()},
    f"{HOME}.Record.verify": lambda: {"self": record(), "body": b""},
    f"{HOME}.Session": lambda: {"config": CONFIG, "base": base(), "channels": {}},
    f"{HOME}.Session.base_score": lambda: {"self": session(), "tokens": FOREIGN},
    f"{HOME}.Session.generate": lambda: {"self": session(), "tokens": FOREIGN, "steps": 1},
    f"{HOME}.Session.score": lambda: {"self": session(), "tokens": FOREIGN},
    f"{HOME}.Users": lambda: {"shared": "a token of everybody"},
    f"{HOME}.Users.grant": lambda: {"self": adapter.Users(shared="token"), "name": "alice"},
    f"{HOME}.Users.named": lambda: {"self": adapter.Users(shared="token"), "token": "token"},
    f"{HOME}.commit_adapter": lambda: {
        "weights": weights(), "layers": LAYERS, "log2_scale": 1, "profile": "none"
    },
    f"{HOME}.commit_folder": lambda: {
        "adapter": FOLDER / "no adapter", "out": new_path()
    },
    f"{HOME}.connect": lambda: {"url": "wss://127.0.0.1:1", "token": "token"},
    f"{HOME}.load_contributor": lambda: {"folder": saved("committed", write_committed)},
    f"{HOME}.loss_of": lambda: {"logits": np.zeros((1, 2, 4)), "targets": TOKENS},
    f"{HOME}.prove_inference": lambda: {"session": session(), "base": base(), "tokens": TOKENS},
    f"{HOME}.serve": lambda: {"served": never()},
    f"{HOME}.serving": lambda: {"contributor": contributor(), "users": "token", "tls": tls()},
    f"{HOME}.verify_inference": lambda: {"inference": inference()},
    f"{HOME}.verify_session": lambda: {"folder": saved("record", record().save)},
    f"{HOME}.accounts.Grant": lambda: {"token": ""},
    f"{HOME}.accounts.grant": lambda: {
        "path": new_path(), "name": "alice", "limits": Grant(""), "leakage": leakage()
    },
    f"{HOME}.accounts.revoke": lambda: {"path": saved("users", write_users), "name": "alice"},
    f"{HOME}.credentials.make_certificate": lambda: {"folder": new_path()},
    f"{HOME}.credentials.make_token": lambda: {"path": new_path()},
    f"{HOME}.credentials.read_token": lambda: {"path": credentials() / "token"},
    f"{HOME}.credentials.server_context": lambda: {
        "certificate": credentials() / "certificate.pem", "key": credentials() / "key.pem"
    },
    f"{HOME}.inference.Inference": lambda: vars(inference()).copy(),
    f"{HOME}.inference.Inference.load": lambda: {
        "folder": saved("inference", inference().save), "config": CONFIG, "base": base()
    },
    f"{HOME}.inference.Inference.save": lambda: {"self": inference(), "folder": new_path()},
}  # fmt: skip
# What sessions and servers call, with frames that they have checked.
INTERNAL = {
    f"{HOME}.{name}"
    for name in (
        "Contributor.deltas", "Contributor.prove", "Contributor.prove_sealed", "Leakage.admit",
        "Manifest.inputs", "Manifest.outputs", "Manifest.split", "Record.add", "Record.room",
    )
}  # fmt: skip
# What is right in all arguments and has nothing to compute with, so that no bad one costs anything.
UNFIT = {
    f"{HOME}.{name}"
    for name in (
        "Record.verify", "Session.base_score", "Session.generate", "Session.score",
        "commit_adapter", "commit_folder", "connect", "inference.Inference.load", "loss_of",
        "prove_inference", "serve", "verify_inference", "verify_session",
    )
}  # fmt: skip


def call(name: str, fn: Any, arguments: dict[str, Any]) -> Any:
    if name == f"{HOME}.serve":
        interval = sys.getswitchinterval()
        try:
            return fn(**arguments)
        finally:
            sys.setswitchinterval(interval)
    if name != f"{HOME}.serving":
        return fn(**arguments)

    async def open_and_close() -> None:
        async with fn(**arguments):
            pass

    return asyncio.run(open_and_close())


CALLS = Calls(MODULES, EXAMPLES, internal=INTERNAL, call=call)


def test_every_signature_has_a_good_call():
    CALLS.require_examples()


@pytest.mark.parametrize("name", [name for name in CALLS.all if name not in UNFIT])
def test_the_good_call_is_good(name):
    CALLS.call(name)


@pytest.mark.parametrize(("name", "parameter"), CALLS.cases)
def test_bad_values_are_refused_by_a_sentence(name, parameter):
    CALLS.require_refusals(name, parameter)


@pytest.mark.parametrize("secret", [b"token-of-nobody-else", 12345678901234])
def test_secrets_of_a_wrong_type_are_not_shown(secret):
    """Messages go to logs."""
    for call in (
        lambda: Users(shared=secret),
        lambda: adapter.serving({}, secret, None),
        lambda: adapter.connect("wss://127.0.0.1:1", secret),
        lambda: zkjax.Sealed.from_secrets(1, None, str(secret)),
        lambda: zkjax.Sealed.from_secrets(1, zkjax.seal(np.int8([1])).commitment, str(secret)),
    ):
        with pytest.raises(zkjax.ZkjaxError) as caught:
            call()
        assert str(secret)[2:12] not in str(caught.value)
