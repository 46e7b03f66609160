"""The folder of a run. Whatever ends the process, at whatever moment, it holds a run that verifies
as far as it got, and from which the run can go on.

    run.json, formats.json    what is public and fixed (``settings.Facts``), and the formats
    start/, step-1/, ...      claims.json and proof.zkp of each proof; statement.zks beside start/'s
    statement.zks             that of every step; where steps are split gradient.zks too, and
                              gradient-claims.json and gradient.zkp with every step
    metrics.jsonl             a line a step
    adapter/                  the last adapter, in PEFT's format
    report.json, loss.png     what was learned
    private/                  the settings as they were given, and the values behind the commitments

A step is kept in two renames: first its values, in private/, then its proof. What lies between them
is thrown away and made again. A proof that nobody saw costs openings, of which there are more than
one for every step.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import zkjax
from zkjax import state
from zkjax.drafts import sync_folder
from zkjax.errors import OptionError
from zkjax.files import new_folder, read_capped, write_atomically
from zkjax.program.statement import Statement
from zkjax.proofs.training.settings import MOST_SETTINGS, Facts, Settings

KEPT = 2  # states of the last steps
MOST_METRICS = 1 << 28


NEW, OLD = ".new-", ".old-"  # a folder that is not complete, and one that is being replaced


def _put_back(old: Path, target: Path) -> None:
    """Undo a replacement that was not finished, or finish it."""
    if not old.exists():
        return
    if target.exists():
        shutil.rmtree(old)
    else:
        os.rename(old, target)


class Files(NamedTuple):
    """The names of what belongs to one proof."""

    claims: str
    proof: str
    statement: str


WHOLE = Files("claims.json", "proof.zkp", "statement.zks")
GRADIENT = Files("gradient-claims.json", "gradient.zkp", "gradient.zks")


def names(proofs: int) -> list[Files]:
    """Of a step's proofs, one or two."""
    return [WHOLE] if proofs == 1 else [GRADIENT, WHOLE]


class RunFolder:
    """A run's folder, held by one process at a time."""

    def __init__(self, path: Path):
        self.path, self.private = path, path / "private"
        try:
            self._lock = state.lock(self.private / ".lock", wait=False)
        except BlockingIOError:
            raise OptionError(f"{path} is being trained by another process") from None
        except OSError as error:
            raise OptionError(f"{path} holds no run of zkjax finetune") from error
        for place in (self.path, self.private):
            for old in place.glob(f"{OLD}*"):
                _put_back(old, place / old.name.removeprefix(OLD))
            for left in place.glob(f"{NEW}*"):
                shutil.rmtree(left)

    @classmethod
    def create(cls, path: Path, settings: Settings, proved: bool) -> RunFolder:
        new_folder(path)
        (path / "private").mkdir(mode=0o700)
        folder = cls(path)
        write_atomically(folder.private / "proved", json.dumps(proved).encode(), private=True)
        write_atomically(folder.private / "settings.json", settings.encode(), private=True)
        return folder

    @property
    def proved(self) -> bool:
        """Whether the run was begun with proofs."""
        return json.loads(read_capped(self.private / "proved", MOST_SETTINGS)) is True

    def close(self) -> None:
        os.close(self._lock)

    @property
    def settings(self) -> Settings:
        raw = read_capped(self.private / "settings.json", MOST_SETTINGS)
        return Settings(**json.loads(raw))

    def read(self, name: str) -> bytes | None:
        """A small file of the folder, if it is there."""
        path = self.path / name
        return read_capped(path, MOST_SETTINGS) if path.exists() else None

    def fix(self, name: str, data: bytes) -> None:
        """Write a file, or see that it has these contents already; OptionError otherwise."""
        if (kept := self.read(name)) is None:
            write_atomically(self.path / name, data, private=name.startswith("private"))
        elif kept != data:
            raise OptionError(
                f"{self.path / name} is of another run: base model, data or this version of zkjax "
                "have changed"
            )

    @contextmanager
    def appearing(self, name: str) -> Iterator[Path]:
        """A folder that gets its name when it is complete, in place of what had it."""
        target = self.path / name
        draft = target.with_name(f"{NEW}{target.name}")
        old = target.with_name(f"{OLD}{target.name}")
        draft.mkdir(mode=0o700)
        try:
            yield draft
            sync_folder(draft)
            if target.exists():
                os.rename(target, old)
            os.rename(draft, target)
            sync_folder(target.parent)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        finally:
            _put_back(old, target)

    def steps(self) -> int:
        """Steps that are complete: all of them from the first on."""
        count = 0
        while (self.path / f"step-{count + 1}").exists():
            count += 1
        return count

    def keep_state(self, step: int, adapter: zkjax.Sealed, optimizer: zkjax.Sealed | None) -> None:
        with self.appearing(f"private/state-{step}") as folder:
            adapter.save(folder / "adapter.sealed")
            if optimizer is not None:
                optimizer.save(folder / "optimizer.sealed")

    def load_state(self, step: int, adapter: Any, optimizer: Any) -> tuple[Any, Any]:
        """The sealed values after a step; the arguments give their structures."""
        folder = self.private / f"state-{step}"
        found = zkjax.Sealed.load(folder / "adapter.sealed", like=adapter)
        if not jax.tree.leaves(optimizer):
            return found, optimizer
        return found, zkjax.Sealed.load(folder / "optimizer.sealed", like=optimizer)

    def forget_states(self, before: int) -> None:
        """Remove all but the last ones; what a kill left half removed as well."""
        for old in self.private.glob("state-*"):
            if int(old.name.partition("-")[2]) < before:
                shutil.rmtree(old)

    def keep_proofs(
        self, name: str, proofs: list[zkjax.Proof], left_out: int, statement: Statement | None
    ) -> None:
        """The files of the proofs of a step, the first one without its first public inputs, which
        are known otherwise.
        """
        claims = proofs[0].claims
        told = zkjax.Claims(
            claims.statement,
            claims.profile,
            {i: x for i, x in claims.inputs.items() if i >= left_out},
            claims.outputs,
            claims.input_commitments,
            claims.output_commitments,
            claims.context,
        )
        of = [told, *(p.claims for p in proofs[1:])]
        with self.appearing(name) as folder:
            for files, proof, claims in zip(names(len(proofs)), proofs, of, strict=True):
                write_atomically(folder / files.claims, claims.to_json().encode())
                proof.save(folder / files.proof)
            if statement is not None:
                statement.save(folder / "statement.zks")

    def keep_plain(self, step: int, adapter: Any, optimizer: Any) -> None:
        """The state of a run without proofs."""
        leaves = jax.tree.leaves((adapter, optimizer))
        with self.appearing("private/plain") as folder, (folder / "state.npz").open("wb") as file:
            np.savez(file, step=np.array(step), **{f"leaf{i}": x for i, x in enumerate(leaves)})
            file.flush()
            os.fsync(file.fileno())

    def load_plain(self, adapter: Any, optimizer: Any) -> tuple[int, Any, Any]:
        """The last state of a run without proofs; the first one if there is none."""
        path = self.private / "plain" / "state.npz"
        if not path.exists():
            return 0, adapter, optimizer
        leaves, form = jax.tree_util.tree_flatten((adapter, optimizer))
        with np.load(path, allow_pickle=False) as kept:
            found = [kept[f"leaf{i}"] for i in range(len(leaves))]
            return int(kept["step"]), *jax.tree_util.tree_unflatten(form, found)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl that are whole."""
        path = self.path / "metrics.jsonl"
        lines = read_capped(path, MOST_METRICS).splitlines(True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith(b"\n")]

    def cut_metrics(self, steps: int) -> None:
        """Forget steps that are not complete."""
        kept = [m for m in self.metrics() if m["step"] <= steps]
        data = "".join(json.dumps(m) + "\n" for m in kept)
        write_atomically(self.path / "metrics.jsonl", data.encode())

    def add_metrics(self, line: dict[str, Any]) -> None:
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def keep_facts(self, facts: Facts, formats: bytes, data: str) -> None:
        """What the run is about, before its first step; OptionError if it has changed since."""
        self.fix("formats.json", formats)
        self.fix("private/data", data.encode())
        self.fix("run.json", facts.encode())

    def fix_statements(self, statements: list[Statement]) -> None:
        """Those of every step, beside them."""
        for files, statement in zip(names(len(statements)), statements, strict=True):
            path = self.path / files.statement
            if not path.exists():
                statement.save(path)
            elif Statement.load(path).digest != statement.digest:
                raise OptionError(f"{path} is of another run, or of another version of zkjax")
