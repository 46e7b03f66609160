"""Check a LoRA adapter between two parties that do not trust each other.

A contributor owns a private adapter, a user owns a base model and prompts. They run the model
together, and the contributor proves that everything it answered came from the adapter it had
committed to. ``docs/adapter-protocol.md`` is the protocol.

Modules build on each other in this order: manifest, statement, frames and record; then those of the
contributor (ledger, leakage, accounts, contributor_session, contributor) and of the user (peer,
session, inference); then credentials and transport; then store, service and server.

    contributor = adapter.Contributor(sealed, manifest)
    with adapter.Session(config, base, {"alice": contributor.connect()}) as session:
        logits = session.score(tokens)
        record = session.finish()              # raises VerificationError naming the contributor
"""

from __future__ import annotations

import importlib

_HOMES = {
    "Contributor": "contributor",
    "Leakage": "leakage",
    "Limits": "record",
    "Manifest": "manifest",
    "Record": "record",
    "Session": "session",
    "Users": "accounts",
    "connect": "transport",
    "loss_of": "session",
    "prove_inference": "inference",
    "commit_adapter": "contributor",
    "commit_folder": "store",
    "load_contributor": "store",
    "serve": "server",
    "serving": "server",
    "verify_inference": "inference",
    "verify_session": "record",
}

__all__ = sorted(_HOMES)


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
