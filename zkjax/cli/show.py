"""What the command line prints. Text from files is printed without control characters or markup."""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from zkjax.argument.budget import Budget, queries_for
from zkjax.argument.opening import Member
from zkjax.argument.party import Planner
from zkjax.cli.bundle import Bundle
from zkjax.errors import VerificationError
from zkjax.program.program import Port, Program
from zkjax.proof import Claims, Commitment
from zkjax.protocol import Setup

SHORT = 24  # ports that ``verify`` lists
FEW = 4  # entries of a public value that are shown


def clean(text: object) -> str:
    """Printable characters only: names in a statement file are not to be trusted."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def line(text: str, style: str = "", error: bool = False) -> None:
    """One line, never wrapped, so that a digest can be copied."""
    Console(stderr=error).print(Text(clean(text), style=style), soft_wrap=True)


def of(count: int, most: int | None) -> str:
    """A count, and what it may come to if there is a limit."""
    return f"{count:,}" if most is None else f"{count:,} of {most:,}"


def close() -> None:
    """Leave a standard output that cannot be written without a word about it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def grid(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], right=()) -> None:
    """A table; columns listed in ``right`` are aligned to the right."""
    table = Table(box=None, pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    console = Console()
    # A pipe has no width: give the table what it needs.
    console = console if console.is_terminal else Console(width=160)
    console.print()
    console.print(Text(title, style="bold"))
    console.print(table)


# Verdicts -----------------------------------------------------------------------------------


def accepted(
    bundles: Sequence[Bundle],
    links: Sequence[tuple[int, int]],
    budget: Budget,
    seconds: float,
    compared: bool,
) -> None:
    """What ``zkjax verify`` says of valid proofs, which follow each other by ``links``."""
    bundle = bundles[-1]
    program, claims = bundle.statement.program, bundle.claims
    line("accepted", "bold green")
    line(f"  statement   {claims.statement.hex()}")
    if not compared:
        line("              compare this digest with that of your own trace (--statement DIGEST)")
    if claims.context:
        line(f"  context     {claims.context.hex()}")
    line(f"  soundness   {budget.bits:.1f} bits (profile {claims.profile})")
    line(f"  program     {_counts(program)}")
    count, total = len(bundles), sum(len(b.proof_bytes) for b in bundles)
    proofs = "proof" if count == 1 else f"{count} proofs"
    line(f"  {proofs:11s} {size(total)}, checked in {seconds:.2f} s")
    for made, taken in links:
        line(f"  chain       output {made} of each step is input {taken} of the next (commitments)")
    if links:
        line("              inputs and outputs below are those of the last step")
    line("")
    line("Proved: whoever made this proof knows private values, under the commitments below,")
    line("for which the program maps these inputs to these outputs.")
    ports(program, claims, SHORT)


def rejected(error: VerificationError) -> None:
    line("rejected", "bold red")
    line(f"  check       {error.check}")
    if error.detail:
        line(f"  detail      {error.detail}")


def unusable(message: str) -> None:
    first, *rest = message.splitlines() or ["the input cannot be used"]
    line(f"zkjax: {first}", error=True)
    for part in rest:
        line(f"  {part}", error=True)


# Parts --------------------------------------------------------------------------------------


def _counts(program: Program) -> str:
    lookups = sum(math.prod(program.shape(r.vars[0])) for r in program.lookups)
    return f"{len(program.ops):,} operations on tensors, {lookups:,} lookups"


def size(count: int) -> str:
    """Bytes for a reader."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count} bytes"


def _port_rows(kind: str, program: Program, members: list[Port], values):
    for i, port in enumerate(members):
        shape = ",".join(map(str, program.shape(port.var)))
        if port.sealed:
            known = f"private, in {kind} commitment {port.group}"
        else:
            known = f"public, {_sample(values[i])}"
        yield kind, port.name or "(the value)", f"{port.dtype}[{shape}]", known


def _sample(value: np.ndarray) -> str:
    flat = value.reshape(-1)
    text = " ".join(str(int(x)) for x in flat[:FEW])
    return text + (f" ... ({flat.size:,} values)" if flat.size > FEW else "")


def ports(program: Program, claims: Claims, most: int | None = None) -> None:
    """Inputs and outputs: name, type, and the value or the commitment."""
    rows = [
        *_port_rows("input", program, program.inputs, claims.inputs),
        *_port_rows("output", program, program.outputs, claims.outputs),
    ]
    shown = rows[:most]
    grid("Inputs and outputs", ("", "name", "type", "value"), shown)
    if len(shown) < len(rows):
        line(f"... and {len(rows) - len(shown)} more (zkjax inspect lists all)")
    given = {"input": claims.input_commitments, "output": claims.output_commitments}
    known = [
        (f"{kind} {i}", str(c), f"{len(c.shapes)}", f"{c.openings}", f"{c.layout.elements:,}")
        for kind, commitments in given.items()
        for i, c in enumerate(commitments)
    ]
    if known:
        names = ("", "digest", "tensors", "openings", "field elements")
        grid("Commitments", names, known, (2, 3, 4))


# Inspect ------------------------------------------------------------------------------------


def inspected(bundle: Bundle) -> None:
    """Everything that follows from the statement and the claims, and the sizes of the files."""
    program, claims = bundle.statement.program, bundle.claims
    proof = bundle.proof()
    setup = Setup(bundle.statement, claims)
    setup.require_length(proof.body)
    planner = Planner(setup.profile.kappa)
    setup.reduce(planner)
    pads = setup.pads((planner.singles, planner.triples), Member("pads", b"", 0))
    budget = setup.budget(planner, pads)
    line("not verified: this is what the files claim", "bold yellow")
    line(f"  statement   {claims.statement.hex()}")
    line(f"  profile     {claims.profile}")
    line(f"  program     {_counts(program)}")
    for name, count in bundle.sizes.items():
        line(f"  {name:<13} {size(count)}")
    ports(program, claims)
    kinds = Counter(op.kind for op in program.ops)
    grid("Operations", ("kind", "number"), [(k, f"{n:,}") for k, n in kinds.most_common()], (1,))
    _inspect_lookups(program)
    codes = [("pads", pads.code, pads.rows * setup.profile.kappa)]
    codes[:0] = [(t.name, t.layout.code, t.layout.rows) for t in setup.tableaux]
    rows = [
        (name, f"{rows:,}", c.row, c.blinding, c.length, queries_for(c, setup.profile))
        for name, c, rows in codes
    ]
    names = ("tableau", "rows", "row values", "blinding", "code length", "columns opened")
    grid("Tableaux", names, rows, range(1, 6))
    terms = [(name, f"{bits:.1f}") for name, bits in budget.terms.items()]
    grid(
        "Soundness budget", ("term", "bits"), [*terms, ("all together", f"{budget.bits:.1f}")], (1,)
    )
    if setup.grinding:
        line(f"The lookup challenge includes {setup.grinding} bits of proof of work.")


def _inspect_lookups(program: Program) -> None:
    counts = Counter[int]()
    for lookup in program.lookups:
        counts[lookup.table] += math.prod(program.shape(lookup.vars[0]))
    rows = [
        (t.name, f"{t.rows:,}", t.width, f"{counts[i]:,}") for i, t in enumerate(program.tables)
    ]
    if rows:
        grid("Lookups", ("table", "rows", "columns", "lookups"), rows, (1, 2, 3))


# Demo ---------------------------------------------------------------------------------------


class Phases:
    """A line that names the current phase; on anything but a terminal, one line a phase (of counted
    ones, the first).
    """

    def __init__(self):
        self._console = Console()
        self._progress = None
        self._counted: set[str] = set()
        if self._console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._task = self._progress.add_task("start", total=None)

    def __enter__(self) -> Phases:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *exception) -> None:
        if self._progress:
            self._progress.stop()

    def __call__(self, name: str) -> None:
        if self._progress:
            self._progress.update(self._task, description=escape(clean(name)))
            return
        kind = "".join(c for c in name if not c.isdigit())
        if kind == name or kind not in self._counted:
            line(name)
            self._counted.add(kind)


_ROWS = (
    ("prove", "prove_seconds", "{:.2f} s"),
    ("verify", "verify_seconds", "{:.2f} s"),
    ("proof", "proof_bytes", "size"),
    ("peak memory", "peak_memory_bytes", "size"),
    ("lookups", "lookups", "{:,}"),
    ("committed field elements", "committed_elements", "{:,}"),
    ("messages", "messages", "{:,}"),
    ("kernels compiled", "kernels", "{:,}"),
    ("soundness bits", "soundness_bits", "{:.1f}"),
    ("loss before", "loss_before", "{:.4f}"),
    ("loss after", "loss_after", "{:.4f}"),
)


def demo_report(report: dict, out: Path) -> None:
    """The figures of a demo run."""
    phases = report.get("phases", {})
    rows = [(name, f"{seconds:.2f} s") for name, seconds in phases.items()]
    grid("Phases of the proof", ("phase", "time"), rows, (1,))
    rows = []
    for label, key, form in _ROWS:
        if key in report:
            value = report[key]
            rows.append((label, size(value) if form == "size" else form.format(value)))
    grid("Result", ("", ""), rows, (1,))
    line("")
    line(f"Files are in {out}. Check the proof in a process of its own: zkjax verify {out}")
    line("Keep private/ and adapter/ to yourself: they hold what the proof hides.")


# Adapter check ------------------------------------------------------------------------------


def adapter_checked(report) -> None:
    """What ``zkjax adapter check`` found (a ``proofs.adapter.check.Report``)."""
    line("accepted", "bold green")
    line(f"  loss without the adapter  {report.base_loss:.6f}")
    line(f"  loss with the adapter     {report.loss:.6f}")
    for name, record in report.records.items():
        line(f"  {name}")
        _adapter(record)
    grid("Phases", ("", "time"), [(k, f"{v:.2f} s") for k, v in report.seconds.items()], (1,))
    if report.text is not None:
        line("")
        line(f"text: {report.text.decode(errors='replace')!r}")
    if report.prompt is not None:
        _prompt(report.prompt)
        line("")
        line("The kept files prove the loss to anyone, without prompt, activations or adapter.")


def _adapter(record) -> None:
    manifest = record.manifest
    line(f"    manifest    {manifest.digest.hex()}")
    line(f"    commitment  {manifest.commitment}")
    line(f"    adapter     {manifest.modules} modules, {manifest.parameters:,} parameters")
    line(f"    checked     every delta of {record.tokens} tokens, {size(record.size)} exchanged")


def _prompt(commitment: Commitment) -> None:
    count, length = commitment.shapes[0]
    line(f"  prompt      private, {count} x {length - 1} tokens")
    line(f"  commitment  {commitment}  (of the prompt)")


def adapter_verified(kept) -> None:
    """What ``zkjax adapter verify`` says of a session or a sealed inference that holds."""
    line("accepted", "bold green")
    if hasattr(kept, "parts"):
        line(f"  loss        {kept.real_loss:.6f}")
        _prompt(kept.tokens)
        for part in kept.parts:
            line(f"  adapter     manifest {part.manifest.digest.hex()}")
        line("Proved: the demo's base model with these adapters has this loss on the prompt.")
    else:
        _adapter(kept)
