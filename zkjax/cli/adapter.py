"""``zkjax adapter``: commit to a LoRA adapter, serve it, check one that another party serves."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated

import typer

from zkjax.cli import show
from zkjax.cli.common import ProfileName, answers
from zkjax.errors import SealError, SessionError
from zkjax.files import write_new

BaseFolder = Annotated[
    Path | None,
    typer.Option("--base", help="The base model's directory; the demo's if left out."),
]
app = typer.Typer(help="Check a LoRA adapter between two parties.", no_args_is_help=True)


@app.command()
@answers("adapter")
def commit(
    folder: Annotated[Path, typer.Argument(help="A PEFT adapter.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder to write; it holds secrets.")] = Path(
        "committed"
    ),
    base: BaseFolder = None,
    sealed: Annotated[
        Path | None,
        typer.Option(help="Keep the commitment of a fine-tuning proof: its sealed adapter."),
    ] = None,
    sessions: Annotated[
        int | None, typer.Option(min=1, help="Sessions it can serve; 100 by default.")
    ] = None,
    profile: Annotated[
        ProfileName | None, typer.Option(help="At least 100 (the default) or 128 bits of security.")
    ] = None,
) -> None:
    """Commit to an adapter: what users will pin. What answers tell of it is counted for each
    commitment, from zero.
    """
    if sealed is not None and (sessions is not None or profile is not None):
        raise typer.BadParameter("--sealed keeps the sessions and the profile of its commitment")
    from zkjax._compat import enable_kernel_cache
    from zkjax.cli.base import describe_base
    from zkjax.proofs.adapter.store import commit_folder

    enable_kernel_cache()
    start = time.perf_counter()
    with show.Phases() as phases:
        phases("read the base model")
        described = describe_base(base)
        phases("commit and prove the range of the weights")
        done = commit_folder(
            folder,
            out,
            base=described,
            sealed=sealed,
            sessions=sessions,
            profile=(profile or ProfileName.S100).value,
        )
    manifest = done.manifest
    show.line("committed", "bold green")
    show.line(f"  manifest    {manifest.digest.hex()}")
    show.line(f"  commitment  {manifest.commitment}")
    show.line(f"  base model  {manifest.base}")
    show.line(f"  adapter     {', '.join(manifest.targets)} of {len(manifest.layers)} layers")
    show.line(f"  size        {manifest.modules} modules, {manifest.parameters:,} parameters")
    show.line(f"  rounding    changes B A by {100 * done.rounding:.2g} % at most ({done.module})")
    show.line(f"  sessions    {done.sessions}")
    show.line(f"  time        {time.perf_counter() - start:.1f} s")
    show.line(
        f"Publish the manifest's digest; keep {out} to yourself. Next: zkjax adapter serve {out}"
    )


@app.command()
@answers("adapter")
def serve(
    folder: Annotated[
        list[Path],
        typer.Argument(
            help="What commit wrote; several are told apart by their names, wss://host:port/name.",
            show_default=False,
        ),
    ],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 8765,
    certificate: Annotated[
        Path | None, typer.Option(help="PEM file; without one, a self-signed one is made.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key.")] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="One token for all users; made if it is missing (grant gives each one)."),
    ] = None,
    max_rank_fraction: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=1.0,
            help="The share of a layer's adapter, in rank and in entries, that users may learn; 1 "
            "allows all.",
        ),
    ] = 0.5,
    max_sessions: Annotated[int, typer.Option(min=1, help="Sessions at a time.")] = 32,
    session_mib: Annotated[
        int, typer.Option(min=1, help="MiB of activations and answers that one session may use.")
    ] = 128,
    frame_mib: Annotated[int, typer.Option(min=1, help="MiB of the largest frame.")] = 32,
    idle_seconds: Annotated[
        float, typer.Option(min=0.1, help="Seconds without a message before a session ends.")
    ] = 60.0,
    name: Annotated[
        list[str] | None,
        typer.Option(help="A host or address that users connect to, for the certificate."),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="Keep every proved session here, for a later check (not sealed ones)."),
    ] = None,
) -> None:
    """Answer users' activations, and prove every answer. Stop with Ctrl-C."""
    from zkjax._compat import enable_kernel_cache
    from zkjax.proofs.adapter import accounts, credentials, server, service
    from zkjax.proofs.adapter.record import Limits
    from zkjax.proofs.adapter.store import load_contributor

    if (certificate is None) != (key is None):
        raise typer.BadParameter("--certificate and --key belong together")
    if not (math.isfinite(max_rank_fraction) and math.isfinite(idle_seconds)):
        raise typer.BadParameter("--max-rank-fraction and --idle-seconds are finite numbers")
    folders = {path.resolve().name: path for path in folder}
    if len(folders) != len(folder):
        raise typer.BadParameter("folders that are served together have different names")
    for path in folder:
        listed = path / accounts.USERS
        if token_file is not None and listed.exists():
            raise typer.BadParameter(
                f"{listed} has users, each with a token; leave --token-file out"
            )
    enable_kernel_cache()
    limits = Limits(
        frame_bytes=frame_mib << 20,
        session_bytes=session_mib << 20,
        idle_seconds=idle_seconds,
        sessions=max_sessions,
    )
    if certificate is not None and key is not None:
        _ = credentials.server_context(certificate, key)
    if token_file is not None and token_file.exists():
        credentials.read_token(token_file)
    contributors = {
        each: load_contributor(path, limits=limits, max_fraction=max_rank_fraction)
        for each, path in folders.items()
    }
    for each, contributor in contributors.items():
        if contributor.sealed.remaining < 1:
            raise SealError(
                f"the commitment of {folders[each]} has served its sessions; commit again, into "
                "another folder (users will see a new manifest)"
            )
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True, mode=0o700)
    if certificate is None or key is None:
        home = folder[0]
        certificate, key = home / "certificate.pem", home / "key.pem"
        hosts = dict.fromkeys(("localhost", "127.0.0.1", host, *(name or ())))
        if not certificate.exists():
            credentials.make_certificate(home, tuple(hosts))
        elif missing := set(hosts) - credentials.certificate_hosts(certificate):
            raise SessionError(
                "certificate",
                f"{certificate} is not for {', '.join(sorted(missing))}; delete it to have another "
                "made, and give that to your users",
            )
    users, known = {}, {}
    for each, path in folders.items():
        listed, token = path / accounts.USERS, token_file or path / "token"
        if listed.exists():
            users[each] = accounts.Users(listed)
            known[each] = f"users        {listed}  (zkjax adapter users)"
        else:
            users[each] = accounts.Users(shared=credentials.make_token(token))
            known[each] = f"token        {token}  (give it to your users, in secret)"
    log = service.Log(show.line)

    def ready(bound: int) -> None:
        log(f"listening on wss://{host}:{bound}")
        log(f"  certificate  {certificate}  (give it to your users)")
        for each, contributor in contributors.items():
            if len(contributors) > 1:
                log(f"wss://{host}:{bound}/{each}")
            log(f"  manifest     {contributor.manifest.digest.hex()}")
            log(f"  {known[each]}")
            log(f"  sessions     {contributor.sealed.remaining} left for this commitment")

    tls = credentials.server_context(certificate, key)
    served = server.serving(contributors, users, tls, host=host, port=port, keep=keep, report=log)
    server.serve(served, ready)
    log.close()
    show.close()


Folder = Annotated[Path, typer.Argument(help="What commit wrote.", show_default=False)]
Name = Annotated[str, typer.Argument(help="The name of a user.", show_default=False)]


@app.command()
@answers("adapter")
def grant(
    folder: Folder,
    name: Name,
    token_file: Annotated[
        Path, typer.Option(help="The new file to write the token to; give it to this user alone.")
    ],
    sessions: Annotated[int | None, typer.Option(min=1, help="Sessions at a time.")] = None,
    proofs: Annotated[int | None, typer.Option(min=0, help="Proofs in all.")] = None,
    tokens: Annotated[int | None, typer.Option(min=0, help="Tokens of text in all.")] = None,
) -> None:
    """Give a user a token of its own, in place of one it had. A running server knows it at once."""
    from zkjax.proofs.adapter import accounts, store

    had = store.counts_of(folder)
    if token_file.exists():
        raise FileExistsError(f"{token_file} exists; choose another")
    limits = accounts.Grant("", sessions, proofs, tokens)
    token = accounts.grant(folder / accounts.USERS, name, limits, had)
    write_new(token_file, token.encode(), private=True)
    show.line("granted", "bold green")
    show.line(f"  token  {token_file}  (give it to {name}, in secret)")


@app.command()
@answers("adapter")
def revoke(folder: Folder, name: Name) -> None:
    """Make a user's token invalid. Its running sessions end with their next message."""
    from zkjax.proofs.adapter import accounts

    accounts.revoke(folder / accounts.USERS, name)
    show.line("revoked", "bold green")


@app.command()
@answers("adapter")
def users(folder: Folder) -> None:
    """List the users, what they may have and what they have had."""
    from zkjax.proofs.adapter import accounts, store

    had = store.counts_of(folder)
    known = accounts.Users(folder / accounts.USERS)
    rows = [
        (
            name,
            "valid" if grant.token else "revoked",
            show.of(used["tokens"], grant.tokens),
            show.of(used["proofs"], grant.proofs),
            show.of(used["refusals"], grant.refusals),
        )
        for name, grant in known.grants().items()
        for used in [accounts.Account(known, name, had).had()]
    ]
    show.grid("Users", ("name", "token", "tokens of text", "proofs", "refusals"), rows, (2, 3, 4))


@app.command()
@answers("adapter")
def check(
    url: Annotated[
        list[str],
        typer.Argument(help="wss:// address; several contributors are added.", show_default=False),
    ],
    token_file: Annotated[
        list[Path], typer.Option(help="The token, one for all or one a contributor.")
    ],
    ca: Annotated[
        list[Path] | None,
        typer.Option(help="The contributor's certificate, if it is self-signed."),
    ] = None,
    manifest: Annotated[
        list[str] | None, typer.Option(help="Digest (hex) of the manifest that you expect.")
    ] = None,
    base: BaseFolder = None,
    formats: Annotated[
        Path | None,
        typer.Option(
            help="From zkjax calibrate --between-parties; chosen from the text if left out."
        ),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="Text to score; by default Python's documentation.")
    ] = None,
    sequences: Annotated[int, typer.Option(min=1, help="Sequences to score.")] = 4,
    length: Annotated[int, typer.Option(min=1, help="Tokens a sequence.")] = 64,
    prompt: Annotated[str | None, typer.Option(help="Also continue this text.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to continue it by.")] = 32,
    out: Annotated[Path | None, typer.Option(help="Keep the session for a later check.")] = None,
    seal: Annotated[
        bool, typer.Option("--seal", help="Prove the loss to third parties (needs --out).")
    ] = False,
    profile: Annotated[
        ProfileName, typer.Option(help="Security demanded: at least 100 or 128 bits.")
    ] = ProfileName.S100,
) -> None:
    """Run a base model with a served adapter, and check that the adapter was used."""
    if seal and out is None:
        raise typer.BadParameter("--seal needs --out")
    if seal and prompt is not None:
        raise typer.BadParameter("--seal scores a text; leave --prompt out")
    from zkjax._compat import enable_kernel_cache
    from zkjax.cli import adapter_check as run
    from zkjax.cli.base import load_base

    enable_kernel_cache()
    servers = run.servers(url, token_file, ca or [], manifest or [])
    with show.Phases() as phases:
        phases("read the base model")
        model = load_base(base)
        report = run.check_adapters(
            model,
            servers,
            model.tokens(text, sequences, length),
            formats=formats,
            prompt=prompt,
            steps=tokens,
            out=out,
            seal=seal,
            least=profile.value,
            progress=phases,
        )
    show.adapter_checked(report)


@app.command()
@answers("adapter")
def verify(
    session: Annotated[Path, typer.Argument(help="What check --out kept.", show_default=False)],
    base: BaseFolder = None,
    formats: Annotated[
        Path | None, typer.Option(help="Of a sealed inference; those kept with it if left out.")
    ] = None,
    manifest: Annotated[
        list[str] | None,
        typer.Option(help="Digest (hex) of the manifest you expect, one an adapter."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Commitment (hex) of the sealed prompt that you expect.")
    ] = None,
    profile: Annotated[
        ProfileName, typer.Option(help="Security demanded: at least 100 or 128 bits.")
    ] = ProfileName.S100,
) -> None:
    """Check a kept session, or a sealed inference, again."""
    from zkjax.cli import adapter_check as run

    kept = run.verify_kept(session, base, formats, profile.value, manifest or [], prompt)
    show.adapter_verified(kept)
