"""What the two parties know each other by: a token, and a TLS certificate."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import secrets
import ssl
from pathlib import Path

from zkjax._arguments import checked, typed
from zkjax._marks import NewPath
from zkjax.errors import SessionError, StatementError
from zkjax.files import read_capped, write_atomically, write_new

__all__ = ["make_certificate", "make_token", "read_token", "server_context"]

MAX_TOKEN, MAX_CERTIFICATE = 1 << 12, 1 << 20  # bytes that are read


@typed
def server_context(certificate: str | Path, key: str | Path) -> ssl.SSLContext:
    """TLS 1.3 with this certificate; SessionError("certificate") if the files cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # sessions are not resumed
    for path in (certificate, key):
        read_certificate(Path(path))
    try:
        context.load_cert_chain(str(certificate), str(key), password=_no_password)
    except (OSError, ValueError) as error:
        raise SessionError("certificate", f"{certificate} and {key}: {error}") from error
    return context


@checked
def make_token(path: NewPath) -> str:
    """The token in a file, which is made if it is missing."""
    path = Path(path)
    if not path.parent.is_dir():
        raise SessionError("token", f"{path}: there is no folder {path.parent}")
    with contextlib.suppress(FileExistsError):
        write_new(path, secrets.token_urlsafe(32).encode(), private=True)
    return read_token(path)


@typed
def read_token(path: str | Path) -> str:
    """The token in a file; SessionError("token") if it holds none."""
    try:
        token = read_capped(path, MAX_TOKEN).decode("ascii").strip()
    except (StatementError, ValueError) as error:
        raise SessionError("token", f"{path} cannot be read ({error})") from error
    return usable_token(token, str(path))


def usable_token(token: str, source: str = "the token") -> str:
    """The token, or SessionError("token"), which does not show it."""
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not token:
        raise SessionError("token", f"{source} is not one line of printable ASCII characters")
    return token


@checked
def make_certificate(folder: NewPath, hosts: tuple[str, ...] = ("localhost", "127.0.0.1")) -> None:
    """Write a self-signed ``certificate.pem`` and its ``key.pem``, valid for a year."""
    if not hosts or not all(hosts):
        raise SessionError("certificate", f"hosts = {hosts} are names or addresses, one or more")
    folder = Path(folder)
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, hosts[0])])
    now = datetime.datetime.now(datetime.UTC)
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(x509.SubjectAlternativeName([_alternative(h) for h in hosts]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_atomically(folder / "key.pem", private, private=True)
    write_atomically(folder / "certificate.pem", certificate.public_bytes(pem))


def read_certificate(path: Path) -> bytes:
    """The contents of a file of certificates or keys; SessionError("certificate")."""
    try:
        return read_capped(path, MAX_CERTIFICATE)
    except StatementError as error:
        raise SessionError("certificate", str(error)) from None


def _no_password() -> str:
    raise ValueError("the key needs a password; keep one without beside its certificate")


def certificate_hosts(path: Path) -> set[str]:
    """The names and addresses that a certificate is for."""
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(read_certificate(path))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as error:
        raise SessionError("certificate", f"{path} cannot be used ({error})") from error
    return {str(name.value) for name in names}


def _alternative(host: str):
    from cryptography import x509

    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(host))
    try:
        return x509.DNSName(host)
    except (ValueError, TypeError) as error:
        detail = f"{host!r} is no name of a host (write others in their ASCII form)"
        raise SessionError("certificate", detail) from error
