"""The adapter server under load, with malicious users, broken logs, full disks and kills.

Usage: python benchmarks/adapter_load.py [--parts load line log disk kill] [--out FILE]
           [--malicious KIND ..]

``load``: 64 honest sessions at a time, with and without 14 malicious users (one greedy with the
largest queries, four that stall, four that leave right after asking for a proof, three with a wrong
token, two with oversized frames), in interleaved pairs: the time of each honest query, whether each
answer is right, and the server's memory. ``--malicious`` lets only some kinds of them be active.
``line``: 16 users ask for proofs at once. ``log``: the log has no reader any more, or its disk is
full. ``disk`` (root only): the folder's disk is full, then has room again. ``kill``: the server is
killed at random moments and started again.

The server is ``zkjax adapter serve`` in a process of its own, on the demo's shapes with random
weights. Exit status 1 if an answer was wrong, a user was not served, or a count was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import platform
import random
import re
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import websockets
from websockets.asyncio import client as ws_client

from zkjax.errors import ZkjaxError
from zkjax.models.config import LlamaConfig, LoraConfig
from zkjax.models.peft import save_adapter
from zkjax.proofs.adapter import accounts, connect, frames
from zkjax.proofs.adapter.contributor import rounded_weights
from zkjax.proofs.adapter.manifest import Manifest
from zkjax.proofs.adapter.peer import Peer
from zkjax.proofs.adapter.record import Digest, Limits
from zkjax.proofs.adapter.store import commit_folder, counts_of, load_contributor
from zkjax.proofs.adapter.transport import TRANSPORT

LORA = LoraConfig(r=4, alpha=8.0, targets=("q_proj", "v_proj", "o_proj", "down_proj"))
HONEST, ANSWERS, TOKENS = 64, 20, 16  # users, queries of each, rows of a query
PAUSE = 0.5  # seconds between the queries of an honest user, in the mean: its own layers
MALICIOUS = ("greedy",) + ("stalled",) * 4 + ("leaving",) * 4 + ("stranger",) * 3 + ("large",) * 2
READY = re.compile(r"wss://[\d.]+:(\d+)")
PATIENCE = 120.0


class Served:
    """``zkjax adapter serve`` of a folder, in a process of its own."""

    def __init__(self, folder: Path, *options: str, output: int | None = None):
        line = [sys.executable, "-uc", "from zkjax.cli.main import app; app()", "adapter", "serve"]
        options = ("--port", "0", "--max-rank-fraction", "1", "--max-sessions", "96", *options)
        self.folder, self.lines = folder, []
        self.process = subprocess.Popen(
            [*line, str(folder), *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert self.process.stdout is not None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        if not self._ready.wait(PATIENCE):
            raise RuntimeError("the server did not start: " + " ".join(self.lines))

    def _read(self) -> None:
        for raw in self.process.stdout:
            self.lines.append(raw.decode(errors="replace").rstrip())
            if found := READY.search(self.lines[-1]):
                self.port = int(found[1])
            if " left for this commitment" in self.lines[-1]:
                self._ready.set()
        self._ready.set()

    @property
    def url(self) -> str:
        return f"wss://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        return (self.folder / "token").read_text()

    @property
    def ca(self) -> Path:
        return self.folder / "certificate.pem"

    def memory(self) -> tuple[int, int]:
        """MiB now, and at the most."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return tuple(int(re.search(rf"{n}:\s+(\d+)", text)[1]) >> 10 for n in ("VmRSS", "VmHWM"))

    def peer(self, name: str, token: str = "", **options) -> Peer:
        return Peer(connect(self.url, token or self.token, ca=self.ca), name, **options)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


class Adapter:
    """A committed adapter in a folder, and what it answers."""

    def __init__(self, folder: Path, sessions: int):
        rng = np.random.default_rng(7)
        config, self.folder = LlamaConfig(), folder / "mine"
        weights = {
            t: {
                "a": rng.normal(0, 0.02, (config.num_hidden_layers, i, LORA.r)),
                "b": rng.normal(0, 0.02, (config.num_hidden_layers, LORA.r, o)),
            }
            for t, (i, o) in ((t, config.projection_shape(t)) for t in LORA.targets)
        }
        save_adapter(folder / "peft", weights, LORA, "none")
        self.manifest: Manifest = commit_folder(
            folder / "peft", self.folder, sessions=sessions
        ).manifest
        owner = load_contributor(self.folder)
        self._weights = rounded_weights(owner.sealed.tree)
        self.remaining = owner.sealed.remaining
        self.sites = [(layer, g) for layer in self.manifest.layers for g in self.manifest.groups()]

    def expected(self, layer: int, group: str, x: np.ndarray) -> np.ndarray:
        """(x A) B in plain integers."""
        parts = []
        for target in self.manifest.groups()[group]:
            a, b = (self._weights[target][k][layer].astype(np.int64) for k in ("a", "b"))
            shift = self.manifest.fractions[0]
            parts.append(((x.astype(np.int64) @ a + (1 << shift - 1)) >> shift) @ b)
        return np.concatenate(parts, axis=1)

    def x(self, group: str, rows: int, rng) -> np.ndarray:
        return rng.integers(-3000, 3000, (rows, self.manifest.inputs(group))).astype(np.int16)


class Talk:
    """One connection that speaks the protocol without a model, in an event loop."""

    def __init__(self, socket):
        self.socket, self.sent, self.received, self.digest = socket, 0, 0, Digest()

    async def say(self, frame: frames.Frame) -> None:
        data = frames.encode(frame, self.sent)
        self.sent += 1
        self.digest.update(data)
        await self.socket.send(data)

    async def hear(self) -> frames.Frame:
        data = await asyncio.wait_for(self.socket.recv(), PATIENCE)
        frame = frames.decode(data, self.received, 1 << 26)
        self.received += 1
        self.digest.update(data)
        return frame

    async def open(self, adapter: Adapter) -> Talk:
        await self.say(frames.Hello(os.urandom(32), "s100"))
        await self.hear()
        await self.say(frames.Accept(adapter.manifest.digest))
        return self


def talking(server: Served, token: str | None = None):
    context = ssl.create_default_context(cafile=str(server.ca))
    headers = {"Authorization": f"Bearer {token or server.token}"}
    options = TRANSPORT | {"open_timeout": PATIENCE, "max_size": 1 << 26}
    return ws_client.connect(
        server.url, ssl=context, additional_headers=headers, proxy=None, **options
    )


async def honest(
    server: Served, adapter: Adapter, number: int, token: str, seconds: list[float]
) -> int:
    """A user's queries; how many answers were right."""
    rng, chance, right = np.random.default_rng(number), random.Random(number), 0
    await asyncio.sleep(chance.uniform(0, 2 * PAUSE))
    async with talking(server, token) as socket:
        talk = await Talk(socket).open(adapter)
        for layer, group in itertools.islice(itertools.cycle(adapter.sites), ANSWERS):
            x = adapter.x(group, TOKENS, rng)
            start = time.perf_counter()
            await talk.say(frames.Query(layer, group, x))
            answer = await talk.hear()
            seconds.append(time.perf_counter() - start)
            right += isinstance(answer, frames.Answer) and np.array_equal(
                answer.deltas, adapter.expected(layer, group, x)
            )
            await asyncio.sleep(chance.uniform(0, 2 * PAUSE))
    return right


async def malicious(
    server: Served, adapter: Adapter, kind: str, token: str, done: Counter, stop: asyncio.Event
) -> None:
    """One thing over and over, until it is stopped and cancelled."""
    rng = np.random.default_rng()
    while not stop.is_set():
        with contextlib.suppress(OSError, TimeoutError, websockets.WebSocketException, ZkjaxError):
            done[kind] += 1
            if kind == "stranger":
                async with talking(server, "x" * 43):
                    pass
            async with talking(server, token) as socket:
                talk = await Talk(socket).open(adapter)
                layer, group = adapter.sites[-1]
                if kind == "greedy":
                    while True:
                        x = adapter.x(group, Limits().query_rows, rng)
                        await talk.say(frames.Query(layer, group, x))
                        if not isinstance(await talk.hear(), frames.Answer):
                            break
                if kind == "stalled":
                    await asyncio.sleep(3600)
                if kind == "leaving":
                    for layer, group in adapter.sites:
                        await talk.say(frames.Query(layer, group, adapter.x(group, 1, rng)))
                        await talk.hear()
                    await talk.say(frames.Finish(talk.digest.value))
                    await asyncio.sleep(0.05)
                    socket.transport.abort()
                if kind == "large":
                    await socket.send(bytes(33 << 20))
                    await socket.recv()
        await asyncio.sleep(0.05)


def attack(url_port: str, folder: str, *kinds: str) -> None:
    """The malicious users, in a process of their own; says at its end what they have done."""
    server = Served.__new__(Served)
    server.folder, server.port = Path(folder), int(url_port)
    adapter = Adapter.__new__(Adapter)
    adapter.manifest = Manifest.decode((server.folder / "manifest.json").read_bytes())
    groups = adapter.manifest.groups()
    adapter.sites = [(layer, g) for layer in adapter.manifest.layers for g in groups]
    done: Counter = Counter()

    async def all_of_them() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        tokens = json.loads((server.folder / "tokens.json").read_text())
        users = (
            malicious(server, adapter, kind, tokens[f"malicious-{i}"], done, stop)
            for i, kind in enumerate(MALICIOUS)
            if kind in kinds
        )
        tasks = [asyncio.create_task(user) for user in users]
        await stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(all_of_them())
    print(json.dumps(done), flush=True)


def load(folder: Path, pairs: int, kinds: list[str]) -> dict:
    adapter = Adapter(folder, 40)
    names = [f"honest-{i}" for i in range(HONEST)] + [
        f"malicious-{i}" for i in range(len(MALICIOUS))
    ]
    counts = counts_of(adapter.folder)
    listed = adapter.folder / accounts.USERS
    tokens = {n: accounts.grant(listed, n, accounts.Grant("", sessions=2), counts) for n in names}
    (adapter.folder / "tokens.json").write_text(json.dumps(tokens))
    rows, right = [], 0
    with Stopping(Served(adapter.folder, "--frame-mib", "32")) as server:
        # Shapes that are new take longer once: not what is measured.
        asyncio.run(honest(server, adapter, 999, tokens["honest-0"], []))
        for pair in range(pairs):
            for attacked in (False, True) if pair % 2 == 0 else (True, False):
                row = measured(server, adapter, tokens, kinds if attacked else [])
                rows.append(row)
                right += row["right"]
                print(json.dumps(row), flush=True)
        remaining = load_remaining(server)
    ratio = [
        statistics.median(r["p95"] for r in rows if r["attacked"] is attacked)
        for attacked in (True, False)
    ]
    asked = 2 * pairs * HONEST * ANSWERS
    return {
        "answers": asked,
        "right": right,
        "p95_with": ratio[0],
        "p95_without": ratio[1],
        "ratio": ratio[0] / ratio[1],
        "memory_mib": max(r["peak_mib"] for r in rows),
        "openings_taken": adapter.remaining - remaining,
        "runs": rows,
        "failed": right != asked or ratio[0] > 2 * ratio[1],
    }


def load_remaining(server: Served) -> int:
    """The openings left of what a server serves."""
    file = next(server.folder.glob("*.openings"))
    return int(file.read_text())


class Stopping:
    """A server that is stopped at the end of a block."""

    def __init__(self, server: Served):
        self.server = server

    def __enter__(self) -> Served:
        return self.server

    def __exit__(self, *_) -> None:
        if self.server.process.poll() is None:
            self.server.stop()


def measured(server: Served, adapter: Adapter, tokens: dict[str, str], kinds: list[str]) -> dict:
    """The honest users at once, and malicious ones of some kinds."""
    seconds: list[float] = []
    attackers = None
    if kinds:
        # They have machines of their own: what making large frames costs them is not measured.
        line = ["nice", "-n", "19", sys.executable, __file__, "--attack"]
        line += [str(server.port), str(adapter.folder), *kinds]
        attackers = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
        time.sleep(4.0)

    async def all_of_them() -> list:
        users = [honest(server, adapter, i, tokens[f"honest-{i}"], seconds) for i in range(HONEST)]
        return await asyncio.gather(*users, return_exceptions=True)

    results = asyncio.run(all_of_them())
    done = {}
    if attackers is not None:
        attackers.send_signal(signal.SIGTERM)
        try:
            done = json.loads(attackers.communicate(timeout=PATIENCE)[0] or "{}")
        finally:
            attackers.kill()
    for error in (r for r in results if isinstance(r, BaseException)):
        print("honest user:", repr(error), flush=True)
    rss, peak = server.memory()
    return {
        "attacked": bool(kinds),
        "right": sum(r for r in results if isinstance(r, int)),
        "median": round(statistics.median(seconds), 4),
        "p95": round(statistics.quantiles(seconds, n=20)[-1], 4),
        "longest": round(max(seconds), 4),
        "rss_mib": rss,
        "peak_mib": peak,
        "attempts": done,
    }


def passed(peer: Peer, adapter: Adapter, seed: int, tokens: int = 4) -> None:
    """A forward pass of a user, its answers compared."""
    rng = np.random.default_rng(seed)
    for layer, group in adapter.sites:
        x = adapter.x(group, tokens, rng)
        told = peer.deltas(layer, group, x)
        assert np.array_equal(
            np.concatenate(list(told.values()), 1), adapter.expected(layer, group, x)
        )


def line(folder: Path, users: int = 16) -> dict:
    """All ask for a proof at once; in which order they are served, and what they hear."""
    adapter = Adapter(folder, 40)
    told: dict[str, list[int]] = {}
    served: list[str] = []
    failed: list[str] = []
    with Stopping(Served(adapter.folder)) as server:
        warm = server.peer("warm")
        passed(warm, adapter, 0)
        warm.finish()
        peers = [server.peer(f"user {i}") for i in range(users)]
        for i, peer in enumerate(peers):
            passed(peer, adapter, i)
        together = threading.Barrier(users)

        def finish(peer: Peer) -> None:
            counts = told.setdefault(peer.name, [])
            peer.progress = lambda message: counts.append(int(message.split()[0]))
            together.wait()
            try:
                peer.finish()
                served.append(peer.name)
            except Exception as error:
                failed.append(f"{peer.name}: {error}")

        start = time.perf_counter()
        threads = [threading.Thread(target=finish, args=(peer,)) for peer in peers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - start
    places = [told[name][0] if told[name] else 0 for name in served]
    falling = all(c == sorted(set(c), reverse=True) for c in told.values())
    return {
        "users": users,
        "served": len(served),
        "seconds": round(seconds, 2),
        "places_first_told_in_order_served": places,
        "failed": failed or not falling or places != sorted(places),
    }


def log(folder: Path) -> dict:
    """The reader of the log has gone; the log is on a full device. Users are served."""
    adapter = Adapter(folder, 20)
    out = {}
    for name in ("reader gone", "full"):
        line = [sys.executable, "-uc", "from zkjax.cli.main import app; app()", "adapter", "serve"]
        port = free_port()
        options = ["--port", str(port), "--max-rank-fraction", "1"]
        sink = os.open("/dev/full", os.O_WRONLY) if name == "full" else subprocess.PIPE
        process = subprocess.Popen(
            [*line, str(adapter.folder), *options], stdout=sink, stderr=subprocess.STDOUT
        )
        if name == "reader gone":
            process.stdout.readline()
            process.stdout.close()
        server = Served.__new__(Served)
        server.folder, server.port, server.process = adapter.folder, port, process
        wait_for(port)
        served = 0
        for i in range(5):
            with contextlib.suppress(ZkjaxError):
                server.peer("stranger", "wrong")
            peer = server.peer("user")
            passed(peer, adapter, i)
            if i == 4:
                peer.finish()
            peer.abandon()
            served += 1
        out[name] = {"served": served, "exit": server.stop()}
    return out | {"failed": any(v["served"] != 5 for v in out.values())}


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port: int) -> None:
    import socket

    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    raise RuntimeError("the server did not start")


def disk(folder: Path) -> dict:
    """A file system of 16 MiB becomes full while users ask, then has room again."""
    place = folder / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", str(place)], check=True)
    try:
        adapter = Adapter(place, 4)
        with Stopping(Served(adapter.folder)) as server:
            peer = server.peer("before")
            passed(peer, adapter, 1)
            peer.finish()
            before = state_of(adapter)
            filler = place / "filler"
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            refused = 0
            for i in range(40):
                try:
                    passed(server.peer(f"full {i}"), adapter, i)
                except ZkjaxError as error:
                    refused += "internal" in str(error)
            during = state_of(adapter)
            filler.unlink()
            peer = server.peer("after")
            passed(peer, adapter, 2)
            peer.finish()
            after = state_of(adapter)
        failed = refused != 40 or during != before or after["openings"] != before["openings"] - 1
        return {
            "refused": refused,
            "before": before,
            "full": during,
            "after": after,
            "failed": failed or after["answers"] != before["answers"] + 4 * len(adapter.sites),
        }
    finally:
        subprocess.run(["umount", str(place)], check=True)


def state_of(adapter: Adapter) -> dict:
    counts = counts_of(adapter.folder)
    file = next(adapter.folder.glob("*.openings"))
    return {
        "openings": int(file.read_text()),
        "answers": sum(s["tokens"] for s in counts.summary().values()),
    }


def kill(folder: Path, kills: int) -> dict:
    """Users ask and finish, the server is killed: what they had is counted, and it starts again."""
    adapter = Adapter(folder, 400)
    chance, problems = random.Random(5), []
    told, proofs, lost = 0, 0, 0
    before = state_of(adapter)
    for number in range(kills):
        server = Served(adapter.folder)
        answered, proved = Counter(), Counter()

        def user(i: int, server=server, answered=answered, proved=proved, number=number) -> None:
            with contextlib.suppress(ZkjaxError):
                for turn in itertools.count():
                    peer = server.peer(f"user {i}")
                    rng = np.random.default_rng([number, i, turn])
                    for layer, group in adapter.sites:
                        peer.deltas(layer, group, adapter.x(group, 2, rng))
                        answered[i] += 2
                    peer.finish()
                    proved[i] += 1

        users = [threading.Thread(target=user, args=(i,)) for i in range(4)]
        for thread in users:
            thread.start()
        # The first proof of a process comes after seconds: a third of the kills wait for proofs.
        time.sleep(chance.uniform(4.0, 14.0) if number % 3 == 0 else chance.uniform(0.02, 4.0))
        server.process.kill()
        server.process.wait()
        for thread in users:
            thread.join()
        left = [p.name for p in adapter.folder.rglob(".*.new-*")]
        try:
            after = state_of(adapter)
            load_contributor(adapter.folder)
        except ZkjaxError as error:
            problems.append(f"kill {number}: {error}")
            break
        counted = after["answers"] - before["answers"]
        taken = before["openings"] - after["openings"]
        told, proofs, lost = told + answered.total(), proofs + proved.total(), lost + taken
        if counted < answered.total() or counted > answered.total() + 4 * 2:
            problems.append(f"kill {number}: {answered.total()} answers told, {counted} counted")
        if not proved.total() <= taken <= proved.total() + 1:
            problems.append(f"kill {number}: {proved.total()} proofs told, {taken} taken")
        if left:
            problems.append(f"kill {number}: {left}")
        before = after
    return {
        "kills": number + 1,
        "answers_told": told,
        "proofs_told": proofs,
        "openings_taken": lost,
        "problems": problems,
        "failed": bool(problems),
    }


def main() -> None:
    if sys.argv[1:2] == ["--attack"]:
        return attack(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("load", "line", "log", "disk", "kill")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--pairs", type=int, default=5)
    names = sorted(set(MALICIOUS))
    parser.add_argument("--malicious", nargs="+", choices=names, default=names)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = {}
    if options.out is not None and options.out.exists():
        results = json.loads(options.out.read_text())
    results["machine"] = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
    calls = {
        "load": lambda folder: load(folder, options.pairs, options.malicious),
        "line": line,
        "log": log,
        "disk": disk,
        "kill": lambda folder: kill(folder, options.kills),
    }
    failed = False
    for part in options.parts:
        with tempfile.TemporaryDirectory() as folder:
            results[part] = calls[part](Path(folder))
        failed |= bool(results[part].pop("failed"))
        print(part, json.dumps({k: v for k, v in results[part].items() if k != "runs"}), flush=True)
        if options.out is not None:
            options.out.write_text(json.dumps(results, indent=1) + "\n")
    sys.exit(failed)


if __name__ == "__main__":
    main()
