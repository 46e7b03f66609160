"""``zkjax adapter`` from end to end: two processes over TLS, an adapter trained as the demo's."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import zkjax
from zkjax.cli.base import load_base
from zkjax.cli.main import app
from zkjax.models.peft import load_adapter, save_adapter
from zkjax.proofs.adapter.store import load_contributor
from zkjax.proofs.demo import LEARNING_RATE, demo_inputs
from zkjax.proofs.finetune import LOSS_FRACTION, FineTuning, make_step, store_rate
from zkjax.proofs.finetune import load_adapter as decoded


def command(*args, check_code=0):
    """Run the command in a process of its own."""
    line = [sys.executable, "-c", "from zkjax.cli.main import app; app()", *map(str, args)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == check_code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The demo's fine-tuning without its proofs: a PEFT folder and the stored adapter."""
    run, base, adapter, source = demo_inputs()
    step, rate = zkjax.provable(make_step(run)), store_rate(LEARNING_RATE)
    for _ in range(5):
        adapter, _ = step(base, adapter, next(source), rate)
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(folder / "peft", decoded(adapter), run.lora, "demo")
    zkjax.seal(adapter, openings=40).save(folder / "sealed")
    return run, base, jax.tree.map(np.asarray, adapter), folder


@pytest.fixture(scope="module")
def server(trained):
    """A contributor's server in a process of its own: its folder and address."""
    folder = trained[-1] / "mine"
    sealed = "--sealed", trained[-1] / "sealed"  # weights rounded as in fine-tuning
    text = command("adapter", "commit", trained[-1] / "peft", *sealed, "--out", folder)
    root = re.search(r"manifest +([0-9a-f]{64})", text)[1]
    line = [sys.executable, "-uc", "from zkjax.cli.main import app; app()", "adapter", "serve"]
    options = ["--port", "0", "--max-rank-fraction", "1", "--idle-seconds", "20"]
    process = subprocess.Popen(
        [*line, str(folder), *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        for said in process.stdout:
            if found := re.search(r"wss://[\d.]+:\d+", said):
                break
        else:
            raise AssertionError("the server did not start")
        yield folder, found[0], root
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        rest = process.stdout.read()
        assert "proof accepted" in rest and "Traceback" not in rest
    finally:
        process.kill()
        process.stdout.close()


def known(server) -> list:
    folder, url, _ = server
    return [url, "--token-file", folder / "token", "--ca", folder / "certificate.pem"]


def test_a_session_between_two_processes(trained, server, tmp_path):
    """The loss is that of the fine-tuning statement with the same adapter, bit for bit."""
    run, base, adapter, _ = trained
    text = command(
        "adapter", "check", *known(server), "--manifest", server[2], "--out", tmp_path / "kept"
    )
    printed = {k: float(v) for k, v in re.findall(r"loss (with\w*) the adapter +([\d.]+)", text)}
    tokens = load_base(None).tokens(None, 4, 64)
    step = zkjax.provable(make_step(FineTuning(run.model, run.lora)))
    none = jax.tree.map(np.zeros_like, adapter)
    for name, weights in (("with", adapter), ("without", none)):
        local = float(step(base, weights, tokens, store_rate(0.0))[1]) * 2.0**-LOSS_FRACTION
        assert f"{local:.6f}" == f"{printed[name]:.6f}", name
    assert printed["with"] != printed["without"]
    assert "accepted" in command("adapter", "verify", tmp_path / "kept")
    data = bytearray((tmp_path / "kept" / "proof.zkp").read_bytes())
    data[1000] ^= 1
    (tmp_path / "kept" / "proof.zkp").write_bytes(data)
    assert "rejected" in command("adapter", "verify", tmp_path / "kept", check_code=1)


def test_a_sealed_inference_between_two_processes(server, tmp_path):
    """A third party verifies the loss from the kept files, which hold no activations."""
    text = command(
        "adapter", "check", *known(server), "--seal", "--out", tmp_path / "told",
        "--sequences", 1, "--length", 16,
    )  # fmt: skip
    loss = re.search(r"loss with the adapter +([\d.]+)", text)[1]
    assert not list((tmp_path / "told").glob("*.safetensors"))
    said = command("adapter", "verify", tmp_path / "told")
    assert "accepted" in said and loss in said and server[2] in said
    prompt = re.search(r"commitment +([0-9a-f]{64})", said)[1]
    assert "1 x 16 tokens" in said and prompt in text
    # The root alone is no name: the same rows are another text in another shape.
    root = json.loads((tmp_path / "told" / "inference.json").read_text())["tokens"]["root"]
    for named, code in ((prompt, 0), (root, 1), (prompt[:16], 2), ("", 2)):
        args = ["adapter", "verify", str(tmp_path / "told"), "--prompt", named]
        assert CliRunner().invoke(app, args).exit_code == code, named


def test_tokens_of_users(server, tmp_path):
    """Granted, listed and revoked; the folder is that of a server with a token for everybody."""
    folder, _, _ = server

    def said(*args, code=0):
        result = CliRunner().invoke(app, ["adapter", *map(str, args)])
        assert result.exit_code == code, result.output
        return result.output

    try:
        limits = ["--tokens", 100, "--proofs", 2]
        said("grant", folder, "alice", "--token-file", tmp_path / "a", *limits)
        said("grant", folder, "bob", "--token-file", tmp_path / "b")
        assert (tmp_path / "a").stat().st_mode & 0o077 == 0
        assert (tmp_path / "a").read_text() not in (folder / "users.json").read_text()
        said("revoke", folder, "bob")
        told = {line.split()[0]: line.split() for line in said("users", folder).splitlines()[3:]}
        assert told["alice"] == ["alice", "valid", "0", "of", "100", "0", "of", "2", "0", "of", "4"]
        assert told["bob"] == ["bob", "revoked", "0", "0", "0", "of", "4"]
        assert "no user" in said("revoke", folder, "carol", code=2)
        options = ["--token-file", folder / "token"]
        assert "leave --token-file out" in said("serve", folder, *options, code=2)
    finally:
        (folder / "users.json").unlink()


def test_refusals_are_sentences(server, tmp_path):
    """Exit code 2, one line that names what is wrong, no traceback."""
    folder, url, root = server
    (tmp_path / "token").write_text("guess")
    wrong_token = [url, "--token-file", tmp_path / "token", "--ca", folder / "certificate.pem"]
    no_ca = [url, "--token-file", folder / "token"]
    plain = [url.replace("wss", "ws"), *known(server)[1:]]
    other = "00" * 32
    for args, word in (
        (wrong_token, "token"),
        (no_ca, "certificate"),
        (plain, "url"),
        ([*known(server), "--manifest", "deadbeef"], "64 hexadecimal digits"),
        ([*known(server), "--manifest", ""], "64 hexadecimal digits"),  # an unset shell variable
        (["wss://127.0.0.1:1", *known(server)[1:]], "wss://127.0.0.1:1: disconnected: nothing"),
        ([*known(server), "--prompt", ""], "prompt is empty"),
        ([*known(server), "--length", 100_000], "too much memory"),
        ([*known(server), "--prompt", "x", "--tokens", 100_000], "--tokens may be"),
        ([*known(server), "--seal", "--out", tmp_path / "odd", "--length", 50], "power of two"),
        ([*known(server), "--out", folder], "not an empty folder"),
        ([url, "--token-file", tmp_path / "none"], "token"),
    ):
        result = CliRunner().invoke(app, ["adapter", "check", *map(str, args)])
        assert result.exit_code == 2, result.output
        assert word in result.output and "Traceback" not in result.output
    args = ["adapter", "check", *map(str, known(server)), "--manifest", other]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 1 and "rejected" in result.output and root in result.output


def test_verify_says_what_a_folder_is(tmp_path):
    (tmp_path / "proof").mkdir()
    (tmp_path / "proof" / "statement.zks").write_bytes(b"")
    (tmp_path / "kept" / "1").mkdir(parents=True)
    (tmp_path / "kept" / "1" / "manifest.json").write_text("")
    several = f"zkjax adapter verify {tmp_path / 'kept' / '1'}"
    for folder, word in (
        (tmp_path, "no kept session"),
        (tmp_path / "proof", "use zkjax verify"),
        (tmp_path / "kept", several),
    ):
        result = CliRunner().invoke(app, ["adapter", "verify", str(folder)])
        assert result.exit_code == 2 and word in result.output


def test_commit_refuses_what_it_cannot_use(trained, tmp_path):
    def refused(*args):
        result = CliRunner().invoke(app, ["adapter", "commit", *map(str, args)])
        assert result.exit_code == 2, result.output
        return result.output

    assert "not a PEFT adapter" in refused(tmp_path)
    assert "not an empty folder" in refused(trained[-1] / "peft", "--out", trained[-1] / "mine")
    for i, other in enumerate(
        ({"q": np.zeros((2, 2), np.int32)}, jax.tree.map(lambda w: w + 4096, trained[2]))
    ):
        path = tmp_path / f"{i}.sealed"
        zkjax.seal(other).save(path)
        text = refused(trained[-1] / "peft", "--out", tmp_path / f"new-{i}", "--sealed", path)
        assert "holds 1 arrays" in text or "does not hold the weights" in text


def test_the_commitment_of_a_proof_can_be_kept(trained, tmp_path):
    """A sealed adapter, as a fine-tuning proof leaves it, keeps its commitment."""
    _, _, adapter, folder = trained
    sealed = zkjax.seal(adapter)
    sealed.save(tmp_path / "adapter.sealed")
    options = ["--out", tmp_path / "mine", "--sealed", tmp_path / "adapter.sealed"]
    text = command("adapter", "commit", folder / "peft", *options)
    assert str(sealed.commitment) in text
    again = zkjax.Sealed.load(tmp_path / "adapter.sealed")
    assert again.remaining == sealed.remaining == 3  # of 4; the range proof took one
    # Half of a layer may be known: the README's example of 8 tokens is answered.
    leakage = load_contributor(tmp_path / "mine").leakage
    for site in leakage.sites:
        leakage.admit(*site, np.eye(64, dtype=np.int16)[:8])
    assert 0.2 < leakage.worst() <= 0.5


def test_peft_files_are_read_back(trained):
    run, _, adapter, folder = trained
    weights, layers, scale = load_adapter(folder / "peft")
    assert layers == (0, 1) and scale == run.lora.scale
    exact = decoded(adapter)
    assert set(weights) == set(run.lora.targets)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, weights, exact)))
