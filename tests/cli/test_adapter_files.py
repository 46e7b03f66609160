"""Every file that ``zkjax adapter`` reads, spoiled in every way: refused with the cause.

All cases run in one process of their own, which measures what each costs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from zkjax.models.config import LlamaConfig, LoraConfig
from zkjax.models.peft import load_adapter, save_adapter
from zkjax.models.pretrain import load_demo_base
from zkjax.proofs.adapter.manifest import Manifest
from zkjax.proofs.adapter.session import Session
from zkjax.proofs.adapter.store import commit_folder, load_contributor

LORA = LoraConfig(r=2, alpha=4.0, targets=("q_proj", "down_proj"))
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NAME = "base_model.model.model.layers.{}.self_attn.q_proj.lora_A.weight"

RUNNER = """
import json, os, resource, sys, time, traceback
from typer.testing import CliRunner
from zkjax.cli.main import app
from zkjax.models.pretrain import load_demo_base
import zkjax.proofs.adapter.server, zkjax.cli.adapter_check, zkjax.proofs.adapter.store
from cryptography import x509

load_demo_base()
run = lambda args: CliRunner().invoke(app, ["adapter", *args])
for good in json.loads(sys.argv[1]):  # what honest files take is no cost of the others
    result = run(good)
    assert result.exit_code == 0, result.output
for line in sys.stdin:
    args = json.loads(line)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    result = run(args)
    print(json.dumps({
        "code": result.exit_code,
        "said": result.output,
        "raised": repr(result.exception),
        "seconds": time.process_time() - start,
        "mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }), flush=True)
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A folder with an adapter, what ``commit`` made of it, and a kept session."""
    folder, rng, config = tmp_path_factory.mktemp("good"), np.random.default_rng(3), LlamaConfig()
    weights = {
        t: {
            "a": rng.normal(0, 0.05, (2, config.projection_shape(t)[0], 2)),
            "b": rng.normal(0, 0.05, (2, 2, config.projection_shape(t)[1])),
        }
        for t in LORA.targets
    }
    save_adapter(folder / "peft", weights, LORA, "none")
    commit_folder(folder / "peft", folder / "mine", sessions=3)
    owner = load_contributor(folder / "mine", max_fraction=1.0)
    tokens = np.arange(4, dtype=np.int32)[None]
    with Session(config, load_demo_base(), {"alice": owner.connect()}) as session:
        session.score(tokens)
        session.finish()["alice"].save(folder / "kept")
    (folder / "token").write_text("x" * 40)
    (folder / "text").write_bytes(bytes(range(256)) * 10)
    return folder


@pytest.fixture(scope="module")
def process(good):
    line = [sys.executable, "-c", RUNNER, json.dumps([["verify", str(good / "kept")]])]
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as running:
        yield running
        running.stdin.close()
        assert running.wait(60) == 0


def refused(process, args: list, word: str, code: tuple[int, ...] = (2,)) -> None:
    """The command ends with one of these codes and a sentence that has the word, at a low cost."""
    process.stdin.write(json.dumps([str(a) for a in args]) + "\n")
    told = json.loads(process.stdout.readline())
    assert told["code"] in code and word in told["said"], told
    assert "Traceback" not in told["said"] and told["raised"].startswith("SystemExit"), told
    assert "Error(" not in told["said"] and "Errno" not in told["said"], told
    assert told["seconds"] < 2.0 and told["mib"] < 100, told


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 35)


def folder_instead(path: Path) -> None:
    path.mkdir()


def missing(path: Path) -> None:
    pass


def noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(1 << 12))


SPOILED: tuple[Callable[[Path], None], ...] = (
    pipe,
    endless,
    sparse,
    folder_instead,
    missing,
    noise,
)


def linked(source: Path, target: Path, leave: str) -> Path:
    """A folder with links to all files of another but one."""
    target.mkdir()
    for path in source.iterdir():
        if path.name != leave:
            (target / path.name).symlink_to(path)
    return target


@pytest.mark.parametrize("how", SPOILED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_file_of_an_adapter(good, process, tmp_path, name, how):
    how(linked(good / "peft", tmp_path / "peft", name) / name)
    refused(process, ["commit", tmp_path / "peft", "--out", tmp_path / "out"], name)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", SPOILED, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "name", ["manifest.json", "range.zkp", "record.safetensors", "proof.zkp", "session"]
)
def test_a_file_of_a_kept_session(good, process, tmp_path, name, how):
    how(linked(good / "kept", tmp_path / "kept", name) / name)
    refused(process, ["verify", tmp_path / "kept"], "", (1, 2))


@pytest.mark.parametrize("how", SPOILED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ["manifest.json", "adapter.sealed", "adapter.sealed.leakage.json"])
def test_a_file_of_a_contributor(good, process, tmp_path, name, how):
    how(linked(good / "mine", tmp_path / "mine", name) / name)
    (tmp_path / "mine" / "adapter.sealed.lock").unlink(missing_ok=True)
    refused(process, ["serve", tmp_path / "mine", "--port", "0"], "")


@pytest.mark.parametrize("how", SPOILED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("option", ["--token-file", "--ca", "--text"])
def test_a_file_of_a_user(good, process, tmp_path, option, how):
    """Before anything is sent: nobody listens at the address."""
    if (option, how) == ("--text", sparse):
        return  # a text like others, of which the beginning is read
    how(tmp_path / "file")
    args = ["check", "wss://127.0.0.1:1", "--token-file", good / "token"]
    if (option, how) == ("--text", noise):  # any bytes are a text, but they may be too few
        args += ["--length", "5000"]
    if option == "--ca" and how is noise:
        args += ["--text", good / "text"]
    args = args[:2] if option == "--token-file" else args
    refused(process, [*args, option, tmp_path / "file"], "file" if how is not noise else "")


@pytest.mark.parametrize("how", SPOILED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("option", ["--certificate", "--key"])
def test_a_certificate_of_a_contributor(good, process, tmp_path, option, how):
    how(tmp_path / "file")
    other = {"--certificate": "--key", "--key": "--certificate"}[option]
    args = ["serve", good / "mine", option, tmp_path / "file", other, good / "token"]
    refused(process, args, "certificate")


def test_a_key_that_needs_a_password(good, process, tmp_path):
    """Nobody is asked for it: a server may have no terminal."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    from zkjax.proofs.adapter.credentials import make_certificate

    make_certificate(tmp_path)
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (tmp_path / "key.pem").write_bytes(key)
    files = ["--certificate", tmp_path / "certificate.pem", "--key", tmp_path / "key.pem"]
    refused(process, ["serve", good / "mine", *files], "password")


SETTINGS: dict[str, tuple[dict, str]] = {
    "a rank that is no integer": ({"r": 4.9}, "r = 4.9"),
    "a rank that is a truth": ({"r": True}, "r = True"),
    "a rank as text": ({"r": "2"}, "r = '2'"),
    "another rank": ({"r": 3}, "the rank is 3"),
    "a huge rank": ({"r": 1 << 70}, "is no rank"),
    "an alpha that is no number": ({"lora_alpha": float("nan")}, "lora_alpha"),
    "an endless alpha": ({"lora_alpha": float("inf")}, "lora_alpha"),
    "an alpha of zero": ({"lora_alpha": 0}, "lora_alpha"),
    "an alpha as text": ({"lora_alpha": "4"}, "lora_alpha"),
    "other targets": ({"target_modules": ["q_proj", "v_proj"]}, "target_modules"),
    "fewer targets": ({"target_modules": ["q_proj"]}, "target_modules"),
    "all targets": ({"target_modules": "all-linear"}, "target_modules"),
    "a pattern of targets": ({"target_modules": "(a+)+$"}, "target_modules"),
    "targets that are no names": ({"target_modules": [1, {}]}, "target_modules"),
    "no targets": ({"target_modules": None}, "target_modules"),
    "other layers": ({"layers_to_transform": [0]}, "layers_to_transform"),
    "layers as objects": ({"layers_to_transform": [{}, "x"]}, "layers_to_transform"),
    "one layer": ({"layers_to_transform": 7}, "layers_to_transform"),
    "a setting that nobody knows": ({"use_magic": True}, "use_magic"),
    "another base model": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights"),
    "no LoRA": ({"peft_type": "LOHA"}, "peft_type"),
    "a scale that is no truth": ({"use_rslora": 1}, "use_rslora"),
    "an encoder": ({"task_type": "TOKEN_CLS"}, "task_type"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_an_adapter(good, process, tmp_path, name):
    changes, word = SETTINGS[name]
    folder = linked(good / "peft", tmp_path / "peft", CONFIG)
    config = json.loads((good / "peft" / CONFIG).read_text()) | changes
    (folder / CONFIG).write_text(json.dumps(config))
    refused(process, ["commit", folder, "--out", tmp_path / "out"], word)


TEXTS = {
    "deep": "[" * 500_000,
    "many": "[" + "[]," * 300_000 + "[]]",
    "a list": "[]",
    "twice the same": '{"r": 2, "r": 3}',
    "a long number": '{"r": ' + "9" * 500_000 + "}",
    "not UTF-8": "\udcff",
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_of_settings(good, process, tmp_path, name):
    folder = linked(good / "peft", tmp_path / "peft", CONFIG)
    (folder / CONFIG).write_bytes(TEXTS[name].encode(errors="surrogateescape"))
    refused(process, ["commit", folder, "--out", tmp_path / "out"], CONFIG)


def spelled(first: str, second: str) -> Callable[[dict], dict]:
    """One module under another name, or under two."""

    def change(tensors: dict) -> dict:
        return {k: v for k, v in tensors.items() if k != first} | {second: tensors[first]}

    return change


def with_type(dtype) -> Callable[[dict], dict]:
    return lambda t: t | {NAME.format(0): t[NAME.format(0)].astype(dtype)}


TENSORS: dict[str, tuple[Callable[[dict], dict], str]] = {
    "one module, two names": (
        lambda t: t | {NAME.format("00"): 2 * t[NAME.format(0)]},
        "is not the name",
    ),
    "a zero before the layer": (spelled(NAME.format(1), NAME.format("01")), "is not the name"),
    "other digits": (spelled(NAME.format(1), NAME.format("\u0661")), WEIGHTS),
    "another parent": (
        spelled(NAME.format(1), NAME.format(1).replace("self_attn", "mlp")),
        "is not the name",
    ),
    "complex": (with_type(np.complex64), "C64"),
    "integers": (with_type(np.int32), "I32"),
    "small integers": (with_type(np.int8), "I8"),
    "truths": (with_type(bool), "BOOL"),
    "not a number": (lambda t: t | {NAME.format(0): np.nan * t[NAME.format(0)]}, "not a number"),
    "endless": (lambda t: t | {NAME.format(0): t[NAME.format(0)] + np.inf}, "infinite"),
    "too large": (lambda t: t | {NAME.format(0): t[NAME.format(0)] + 1e5}, "do not fit"),
    "another shape": (lambda t: t | {NAME.format(0): t[NAME.format(0)][:, :-1]}, "shape"),
    "nothing": (lambda t: {}, "no LoRA weights"),
    "no inputs": (lambda t: t | {NAME.format(0): t[NAME.format(0)][:, :0]}, "shape"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_weights_of_an_adapter(good, process, tmp_path, name):
    change, word = TENSORS[name]
    folder = linked(good / "peft", tmp_path / "peft", WEIGHTS)
    tensors = change(load_file(good / "peft" / WEIGHTS))
    data = save({k: np.ascontiguousarray(v) for k, v in tensors.items()})
    (folder / WEIGHTS).write_bytes(data)
    refused(process, ["commit", folder, "--out", tmp_path / "out"], word)


def header(data: bytes, change: Callable[[dict], object]) -> bytes:
    """A safetensors file with another header."""
    length = int.from_bytes(data[:8], "little")
    text = json.dumps(change(json.loads(data[8 : 8 + length]))).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def moved(by: int) -> Callable[[dict], dict]:
    def change(told: dict) -> dict:
        start, end = told[NAME.format(0)]["data_offsets"]
        told[NAME.format(0)]["data_offsets"] = [start + by, end + by]
        return told

    return change


def replaced(**changes) -> Callable[[dict], dict]:
    return lambda told: told | {NAME.format(0): told[NAME.format(0)] | changes}


HEADERS: dict[str, Callable[[bytes], bytes]] = {
    "an array beside another": lambda d: header(d, moved(4)),
    "before the beginning": lambda d: header(d, moved(-(1 << 40))),
    "a negative size": lambda d: header(d, replaced(shape=[2, -64])),
    "sizes whose product is small": lambda d: header(d, replaced(shape=[1 << 40, 1 << 40])),
    "a shape that is none": lambda d: header(d, replaced(shape="x")),
    "a type that is none": lambda d: header(d, replaced(dtype=["F32"])),
    "an unknown type": lambda d: header(d, replaced(dtype="F99")),
    "one key more": lambda d: header(d, replaced(more=1)),
    "a list": lambda d: header(d, lambda told: []),
    "metadata that are none": lambda d: header(d, lambda told: told | {"__metadata__": 3}),
    "bytes that nobody describes": lambda d: d + bytes(8),
    "bytes that are not there": lambda d: d[:-8],
    "a header that is too long": lambda d: (1 << 62).to_bytes(8, "little") + d[8:],
    "no header": lambda d: bytes(8),
    "seven bytes": lambda d: d[:7],
    "empty": lambda d: b"",
    "a deep header": lambda d: (1 << 20).to_bytes(8, "little") + b"[" * (1 << 20),
    "a full header": lambda d: (3 << 20).to_bytes(8, "little") + b"[]," * (1 << 20),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_of_weights(good, process, tmp_path, name):
    folder = linked(good / "peft", tmp_path / "peft", WEIGHTS)
    (folder / WEIGHTS).write_bytes(HEADERS[name]((good / "peft" / WEIGHTS).read_bytes()))
    word = "F99" if name == "an unknown type" else WEIGHTS
    refused(process, ["commit", folder, "--out", tmp_path / "out"], word)


@pytest.mark.parametrize("dtype", ["F16", "F64", "BF16"])
def test_floats_of_every_width(good, tmp_path, dtype):
    """BF16 is what most adapters are kept in."""
    folder = linked(good / "peft", tmp_path / "peft", WEIGHTS)
    tensors, told, body = load_file(good / "peft" / WEIGHTS), {}, b""
    for name, value in tensors.items():
        if dtype == "BF16":
            data = (value.view(np.uint32) >> 16).astype("<u2").tobytes()
        else:
            data = value.astype({"F16": "<f2", "F64": "<f8"}[dtype]).tobytes()
        told[name] = {"dtype": dtype, "shape": value.shape}
        told[name]["data_offsets"] = [len(body), len(body) + len(data)]
        body += data
    text = json.dumps(told).encode()
    (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + body)
    exact, kept = load_adapter(good / "peft")[0], load_adapter(folder)[0]
    for target in LORA.targets:
        assert np.allclose(kept[target]["a"], exact[target]["a"], rtol=2**-7)


FALSE = {
    "another statement": (lambda m: m | {"statement": "ab" * 32}, "statement"),
    "layers of no base model": (lambda m: m | {"layers": [0, 7]}, "no layer 7"),
    "another scale": (lambda m: m | {"log2_scale": 3}, ""),
    "one layer less": (lambda m: m | {"layers": [0]}, "shapes"),
}


@pytest.mark.parametrize("name", FALSE)
def test_a_false_manifest_of_a_kept_session(good, process, tmp_path, name):
    """Whoever made it proved something else, or about no such model."""
    change, word = FALSE[name]
    folder = linked(good / "kept", tmp_path / "kept", "manifest.json")
    told = json.loads((good / "kept" / "manifest.json").read_text())
    text = json.dumps(change(told), sort_keys=True, separators=(",", ":"))
    (folder / "manifest.json").write_text(text)
    refused(process, ["verify", folder], word, (1, 2))


def test_a_proof_of_another_session(good, process, tmp_path):
    """The same adapter, activations and answers, but other frames."""
    folder = linked(good / "kept", tmp_path / "kept", "session")
    digest = bytearray.fromhex((good / "kept" / "session").read_text())
    for at in (0, 31):
        digest[at] ^= 1
        (folder / "session").write_text(digest.hex())
        refused(process, ["verify", folder], "rejected", (1,))
    for text in ("", "ab" * 31, "AB" * 32, "zz" * 32, "ab" * 32 + "\n"):
        (folder / "session").write_text(text)
        refused(process, ["verify", folder], "session")


OPTIONS: dict[str, tuple[list, str]] = {
    "a fraction that is no number": (["serve", "mine", "--max-rank-fraction", "nan"], "fraction"),
    "a time that is no number": (["serve", "mine", "--idle-seconds", "nan"], "serve"),
    "an endless time": (["serve", "mine", "--idle-seconds", "inf"], "finite"),
    "a host that is none": (["serve", "mine", "--host", "no.test", "--name", "a\u00e9"], "host"),
    "one key": (["serve", "mine", "--key", "token"], "belong together"),
    "no folder": (["serve", "nothing"], "nothing"),
    "no folder of users": (["users", "nothing"], "nothing"),
    "no folder to grant in": (["grant", "nothing", "a", "--token-file", "x"], "nothing"),
    "a token file that is there": (["grant", "mine", "a", "--token-file", "token"], "exists"),
    "a user that is none": (["revoke", "mine", "a"], "no user"),
    "a name that is none": (["grant", "mine", "a b", "--token-file", "new"], "no name"),
    "an address that is none": (["check", "wss://", "--token-file", "token"], "wss://host"),
    "an address without TLS": (["check", "ws://x:1", "--token-file", "token"], "TLS"),
    "a port that is none": (["check", "wss://x:0", "--token-file", "token"], "wss://host"),
    "a digest that is none": (
        ["check", "wss://127.0.0.1:1", "--token-file", "token", "--manifest", "ab"],
        "64 hexadecimal digits",
    ),
    "a digest to verify that is none": (
        ["verify", "kept", "--manifest", "ab"],
        "64 hexadecimal digits",
    ),
    "another digest": (["verify", "kept", "--manifest", "ab" * 32], "manifest"),
    "too long a text": (
        ["check", "wss://127.0.0.1:1", "--token-file", "token", "--length", "100000"],
        "memory",
    ),
    "sessions of a seal": (
        ["commit", "peft", "--out", "new", "--sealed", "mine/adapter.sealed", "--sessions", "3"],
        "--sealed keeps",
    ),
    "a seal that is none": (["commit", "peft", "--out", "new", "--sealed", "token"], "sealed"),
    "a seal that is not there": (["commit", "peft", "--out", "new", "--sealed", "no"], "no"),
    "a folder that is not empty": (["commit", "peft", "--out", "mine"], "not an empty folder"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(good, process, name):
    """Looked at before any work."""
    args, word = OPTIONS[name]
    names = {p.name for p in good.iterdir()} | {"nothing", "new", "no", "mine/adapter.sealed"}
    refused(process, [good / a if a in names else a for a in args], word, (1, 2))
    assert not (good / "new").exists()


def test_the_counts_are_not_set_back_by_deleting_them(good, process, tmp_path):
    """Neither served nor committed to again as if nothing had been answered."""
    folder = linked(good / "mine", tmp_path / "mine", "adapter.sealed.leakage.json")
    refused(process, ["serve", folder], "leakage.json is missing")
    assert not (folder / "adapter.sealed.leakage.json").exists()
    sealed = folder / "adapter.sealed"
    args = ["commit", good / "peft", "--out", tmp_path / "again", "--sealed", sealed]
    refused(process, args, "")
    assert not (folder / "adapter.sealed.leakage.json").exists()


def test_the_manifest_of_the_good_session_is_the_adapter(good):
    """What the cases above spoil is accepted as it is."""
    manifest = Manifest.decode((good / "kept" / "manifest.json").read_bytes())
    assert manifest.encode() == (good / "mine" / "manifest.json").read_bytes()
