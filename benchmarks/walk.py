"""Walk through the README with nothing but the wheel, as somebody does who has just found it.

Usage: python benchmarks/walk.py WHEEL [--python PYTHON] [--out FILE] [--keep]

In an environment of its own, every block of commands and of Python of the README runs in an empty
folder, twice: once into a pipe, once on a terminal of 80 columns. What is checked: exit codes, that
lines keep to 80 columns, that a pipe gets one line of progress a command at most, and that a
changed proof is rejected. Lines for a checkout (``make``) are left out, and said. The first walk
starts without kept kernels. Takes about five minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
WIDTH = 80


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """("python" | "shell", source) of the README, in order: fenced blocks and indented ones."""
    pattern = r"^```python\n(?P<python>(?:.*\n)*?)^```|(?P<shell>(?:^    \S.*\n)+)"
    for found in re.finditer(pattern, text, re.MULTILINE):
        source = found[kind := found.lastgroup]
        yield kind, source if kind == "python" else re.sub(r"(?m)^    ", "", source)


class Walk:
    """One way through the README, in one folder."""

    def __init__(self, home: Path, folder: Path, terminal: bool):
        self.bin, self.folder, self.terminal = home / "bin", folder, terminal
        self.source, self.steps = "", []
        self.servers: list[subprocess.Popen] = []
        folder.mkdir()
        self.environment = {
            k: v for k, v in os.environ.items() if k not in ("COLUMNS", "PYTHONPATH")
        }
        self.environment |= {
            "ZKJAX_CACHE": str(home / "cache"),
            "PATH": f"{self.bin}:{os.environ['PATH']}",
        }

    def python(self, source: str) -> None:
        """A block goes on from those before it."""
        self.source += source
        (self.folder / "own.py").write_text(self.source)
        self.command("python own.py")

    def shell(self, line: str) -> None:
        if line.startswith("zkjax adapter serve"):
            self.serve(line)
        else:
            self.command(line)

    def command(self, line: str, code: int = 0) -> str:
        start = time.perf_counter()
        run = self._on_a_terminal if self.terminal else self._in_a_pipe
        status, output, errors = run(line)
        seconds = time.perf_counter() - start
        self.steps.append({"command": line, "seconds": round(seconds, 1), "exit": status})
        print(f"{seconds:7.1f} s  {line}", flush=True)
        require(status == code, f"{line}: exit code {status}\n{output}\n{errors}")
        require("Traceback" not in output + errors, output + errors)
        # In a pipe a refusal is one line, however long.
        for text in (output, errors if code == 0 or self.terminal else ""):
            for wide in filter(too_wide, re.split(r"[\r\n]+", text)):
                raise SystemExit(f"{line}: wider than {WIDTH} columns: {wide}")
        if code == 0 and not self.terminal and line.startswith("zkjax"):
            require(
                len(errors.splitlines()) <= 1, f"{line}: more than a line of progress:\n{errors}"
            )
        return output

    def _in_a_pipe(self, line: str) -> tuple[int, str, str]:
        done = subprocess.run(
            shlex.split(line), cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        return done.returncode, done.stdout, done.stderr

    def _on_a_terminal(self, line: str) -> tuple[int, str, str]:
        master, slave = pty.openpty()
        environment = self.environment | {"COLUMNS": str(WIDTH), "TERM": "xterm"}
        process = subprocess.Popen(
            shlex.split(line),
            cwd=self.folder,
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        data = b""
        while part := _read(master):
            data += part
        os.close(master)
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", data.decode())
        return process.wait(), plain, ""

    def serve(self, line: str) -> None:
        """Start a server and wait until it listens."""
        process = subprocess.Popen(
            shlex.split(line),
            cwd=self.folder,
            env=self.environment | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.servers.append(process)
        said = ""
        while "listening" not in said:
            new = process.stdout.readline()
            require(bool(new), f"{line}: ended\n{said}")
            said += new
        print(f"           {line}", flush=True)

    def end(self) -> None:
        for process in self.servers:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def _read(file: int) -> bytes:
    try:
        return os.read(file, 1 << 16)
    except OSError:  # the other end is closed
        return b""


def too_wide(line: str) -> bool:
    """Longer than the terminal, and not because of one long word behind a short label."""
    words = sorted(line.split(), key=len)
    return len(line) > WIDTH and (len(words) > 2 or len(words[0]) > 12)


def require(condition: bool, message: str) -> None:
    if not condition:
        raise SystemExit(message)


def walk(walker: Walk, text: str) -> None:
    try:
        for kind, source in blocks(text):
            if kind == "python":
                walker.python(source)
                continue
            for line in source.splitlines():
                if line.startswith(("zkjax", "python")):
                    walker.shell(line)
                elif not line.startswith("pip install"):
                    print(f"           not with a wheel: {line}")
        data = bytearray((walker.folder / "proof.zkp").read_bytes())
        data[len(data) // 2] ^= 1
        (walker.folder / "proof.zkp").write_bytes(data)
        require("rejected" in walker.command("zkjax verify .", code=1), "a changed proof passed")
    finally:
        walker.end()


def extras(text: str) -> str:
    """All that the README installs."""
    named = re.findall(r"pip install 'zkjax\[([a-z,]+)\]'", text)
    return ",".join(sorted(set(",".join(named).split(","))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", action="store_true", help="leave the folders")
    args = parser.parse_args()
    text = README.read_text()
    home = Path(tempfile.mkdtemp(prefix="walk-"))
    start = time.perf_counter()
    subprocess.run([args.python, "-m", "venv", home], check=True)
    pip = [
        home / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    subprocess.run([*pip, f"{args.wheel.resolve()}[{extras(text)}]"], check=True)
    installed = time.perf_counter() - start
    print(f"{installed:7.1f} s  pip install 'zkjax[{extras(text)}]'")
    walks = {}
    for name in ("pipe", "terminal"):
        print(f"\n{name}")
        walker = Walk(home, home / name, terminal=name == "terminal")
        walk(walker, text)
        walks[name] = walker.steps
    result = {"python": platform.python_version(), "install_seconds": round(installed, 1), **walks}
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    if args.keep:
        print(home)
    else:
        shutil.rmtree(home)
    print("\nthe whole way was walked twice")


if __name__ == "__main__":
    main()
