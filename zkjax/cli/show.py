"""What the command line prints for a reader, from the data of ``facts``."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from zkjax.cli.live import Phases as Phases
from zkjax.cli.text import clean as clean
from zkjax.cli.text import field, grid, line, size
from zkjax.errors import VerificationError
from zkjax.proof import Commitment

SHORT = 24  # ports that ``verify`` lists


def as_json(facts: dict[str, Any]) -> None:
    """One JSON object on standard output."""
    print(json.dumps(facts, indent=1))


def of(count: int, most: int | None) -> str:
    """A count, and what it may come to if there is a limit."""
    return f"{count:,}" if most is None else f"{count:,} of {most:,}"


def close() -> None:
    """Leave a standard output that cannot be written without a word about it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# Verdicts -----------------------------------------------------------------------------------


def accepted(facts: dict[str, Any]) -> None:
    """What ``zkjax verify`` says of valid proofs."""
    line("accepted", "bold green")
    field("statement", facts["statement"])
    if not facts["statement_compared"]:
        line("              compare it with that of your own trace (--statement DIGEST)")
    if facts["context"]:
        field("context", facts["context"])
    field("soundness", f"{facts['soundness_bits']:.1f} bits (profile {facts['profile']})")
    field("program", _counts(facts))
    count = facts["proofs"]
    checked = f"{size(facts['proof_bytes'])}, checked in {facts['seconds']:.2f} s"
    field("proof" if count == 1 else f"{count} proofs", checked)
    for link in facts["chain"]:
        field("chain", f"output {link['output']} of each step is input {link['input']} of the next")
    if facts["chain"]:
        line("              inputs and outputs below are those of the last step")
    line("")
    line(
        "Proved: whoever made this proof knows private values, under the commitments below, for "
        "which the program maps these inputs to these outputs."
    )
    ports(facts, SHORT)


def rejected(error: VerificationError) -> None:
    line("rejected", "bold red")
    field("check", error.check)
    if error.detail:
        field("detail", error.detail)


def unusable(message: str) -> None:
    first, *rest = message.splitlines() or ["the input cannot be used"]
    line(f"zkjax: {first}", error=True)
    for part in rest:
        line(f"  {part}", error=True)


# Parts --------------------------------------------------------------------------------------


def _counts(facts: dict[str, Any]) -> str:
    return f"{facts['operations']:,} operations on tensors, {facts['lookups']:,} lookups"


def ports(facts: dict[str, Any], most: int | None = None) -> None:
    """Inputs and outputs: name, type, and the value or the commitment."""
    rows = [
        _port_row(kind, port)
        for kind, key in (("input", "inputs"), ("output", "outputs"))
        for port in facts[key]
    ]
    shown = rows[:most]
    grid("Inputs and outputs", ("", "name", "type", "value"), shown)
    if len(shown) < len(rows):
        line(f"... and {len(rows) - len(shown)} more (zkjax inspect lists all)")
    if facts["commitments"]:
        line("")
        line("Commitments", "bold")
    for c in facts["commitments"]:
        line(f"{c['of']} {c['number']}".ljust(12) + c["digest"])
        tensors = "1 tensor" if c["tensors"] == 1 else f"{c['tensors']:,} tensors"
        openings = "1 opening" if c["openings"] == 1 else f"{c['openings']:,} openings"
        line(f"            {tensors}, {openings}, {c['elements']:,} field elements")


def _port_row(kind: str, port: dict[str, Any]) -> tuple[str, ...]:
    count = 1
    for n in port["shape"]:
        count *= n
    shape = ",".join(map(str, port["shape"]))
    if port["private"]:
        known = f"private, {kind} {port['commitment']}"
    else:
        first = port["first_values"]
        known = "public, " + " ".join(map(str, first))
        known += f" ... ({count:,} values)" if count > len(first) else ""
    return kind, port["name"] or "(the value)", f"{port['dtype']}[{shape}]", known


# Inspect ------------------------------------------------------------------------------------


def inspected(facts: dict[str, Any]) -> None:
    line("not verified: this is what the files claim", "bold yellow")
    field("statement", facts["statement"])
    field("profile", facts["profile"])
    field("program", _counts(facts))
    for name, count in facts["files"].items():
        line(f"  {name:<13} {size(count)}")
    ports(facts)
    kinds = [(k, f"{n:,}") for k, n in facts["operation_kinds"].items()]
    grid("Operations", ("kind", "number"), kinds, (1,))
    rows = [
        (t["name"], f"{t['rows']:,}", t["columns"], f"{t['lookups']:,}") for t in facts["tables"]
    ]
    if rows:
        grid("Lookups", ("table", "rows", "columns", "lookups"), rows, (1, 2, 3))
    names = ("tableau", "rows", "row values", "blinding", "code length", "columns opened")
    keys = ("row_values", "blinding", "code_length", "columns_opened")
    rows = [(t["name"], f"{t['rows']:,}", *(t[k] for k in keys)) for t in facts["tableaux"]]
    grid("Tableaux", names, rows, range(1, 6))
    terms = [(name, f"{bits:.1f}") for name, bits in facts["soundness_terms"].items()]
    terms.append(("all together", f"{facts['soundness_bits']:.1f}"))
    grid("Soundness budget", ("term", "bits"), terms, (1,))
    if facts["proof_of_work_bits"]:
        bits = facts["proof_of_work_bits"]
        line(f"The lookup challenge includes {bits} bits of proof of work.")


# Demo ---------------------------------------------------------------------------------------

_ROWS = (
    ("prove", "prove_seconds", "{:.2f} s"),
    ("verify", "verify_seconds", "{:.2f} s"),
    ("proof", "proof_bytes", "size"),
    ("peak memory", "peak_memory_bytes", "size"),
    ("lookups", "lookups", "{:,}"),
    ("committed field elements", "committed_elements", "{:,}"),
    ("messages", "messages", "{:,}"),
    ("kernels", "kernels", "{:,}"),
    ("soundness bits", "soundness_bits", "{:.1f}"),
    ("held-out loss before", "loss_before", "{:.4f}"),
    ("held-out loss after", "loss_after", "{:.4f}"),
)


def expected(facts: dict[str, Any]) -> None:
    """What a proof would cost that was not made."""
    line("nothing was proved; every value stayed in its range")
    field("run", f"{facts['run_seconds']:.2f} s without a proof, compilation included")
    field("program", _counts(facts))
    field("tree", f"{facts['leaves']:,} leaves of lookups, padding included")
    field("committed", f"{facts['committed_elements']:,} elements")
    field("proof", f"about {size(facts['proof_bytes'])}")
    field("memory", f"about {size(facts['memory_bytes'])}")
    field("time", f"about {facts['prove_seconds']:.0f} s to prove, with kernels compiled")


def verified_run(facts: dict[str, Any]) -> None:
    """What the proofs of a fine-tuning run show."""
    line("accepted", "bold green")
    done, steps, losses = facts["proved_steps"], facts["steps"], facts["losses"]
    field("run", facts["run"])
    private = f"private, commitment {facts['base_commitment']}"
    field("model", private if facts["model"] is None else facts["model"])
    optimizer = facts["optimizer"]
    rate = f"{optimizer['name']}, {optimizer['schedule']} rate of {optimizer['learning_rate']:g}"
    lora = f"LoRA of rank {facts['rank']}, alpha {facts['alpha']:g}"
    field("training", f"{lora} on {', '.join(facts['targets'])}; {rate}")
    field("batch", f"{facts['batch']} x {facts['length']} tokens")
    field("steps", f"{done:,} of {steps:,}, from B = 0 on, each following the one before")
    if losses:
        field("loss", f"{losses[0]:.6f} in the first step, {losses[-1]:.6f} in the last")
    field("adapter", f"commitment {facts['adapter']}")
    field("security", f"{facts['soundness_bits']:.1f} bits a proof")
    field("proofs", f"{size(facts['proof_bytes'])}, verified in {facts['seconds']:.1f} s")


def demo_report(facts: dict[str, Any]) -> None:
    """The figures of a demo run."""
    rows = [(name, f"{seconds:.2f} s") for name, seconds in facts["phases"].items()]
    grid("Phases of the last proof", ("phase", "time"), rows, (1,))
    rows = []
    for label, key, form in _ROWS:
        if key in facts:
            value = facts[key]
            rows.append((label, size(value) if form == "size" else form.format(value)))
    grid("Result", ("", ""), rows, (1,))
    out = facts["out"]
    line("")
    line(f"Files are in {out}; loss.png shows what these steps and more of them learn.")
    line(f"Check the proofs in a process of their own: zkjax verify {out}")
    line("Keep private/ and adapter/ to yourself: they hold what the proof hides.")


# Adapter check ------------------------------------------------------------------------------


def adapter_checked(report) -> None:
    """What ``zkjax adapter check`` found (a ``proofs.adapter.check.Report``)."""
    line("accepted", "bold green")
    drift = f"(float32: {report.float_loss:.6f})"
    line(f"  loss without the adapter  {report.base_loss:.6f}  {drift}")
    line(f"  loss with the adapter     {report.loss:.6f}")
    for name, record in report.records.items():
        line(f"  {name}")
        _adapter(record)
    grid("Phases", ("", "time"), [(k, f"{v:.2f} s") for k, v in report.seconds.items()], (1,))
    if report.text is not None:
        line("")
        line(f"text: {report.text!r}")
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
        line("Proved: the base model with these adapters has this loss on the prompt.")
    else:
        _adapter(kept)
