"""What a federation's processes identify themselves by: certificates, node keys, a secret.

Private keys never leave the folder that they are written to, and only its owner can read what is
in it.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from potara_flwr.core.errors import SettingsError
from potara_flwr.core.storage import whole_folder, write_whole, writing

CURVE = ec.SECP384R1()
"""P-384: of the curves that Flower takes for nodes."""
MOST_DAYS = 36500
"""Some clocks and formats end soon after a hundred years."""
SUPERLINK, SUPEREXEC, CLIENT = "superlink", "superexec", "client"
"""Folders that are no node's."""
CA_CERTIFICATE, SECRET, NODE_KEY = "ca.crt", "superexec.secret", "node.key"
_HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
_NODE = re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII)


class Authority:
    """A certificate authority, whose key is kept in memory only.

    Parameters
    ----------
    days : int
        How long its certificate, and those that it signs, are good for.
    """

    def __init__(self, days: int) -> None:
        self._key = ec.generate_private_key(CURVE)
        self._name = _name("Potara federation")
        self._days = days
        usage = x509.KeyUsage(
            key_cert_sign=True, crl_sign=True, digital_signature=False, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False,
            encipher_only=False, decipher_only=False,
        )  # fmt: skip
        self.certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def write(self, file: Path) -> None:
        """Write its certificate, which clients trust."""
        write_whole(file, self.certificate.public_bytes(Encoding.PEM), mode=0o600)

    def write_server(self, folder: Path, names: Sequence[x509.GeneralName]) -> None:
        """Write ``server.crt`` and ``server.key`` of a server that is reached by these names:
        without them in the certificate no client connects.
        """
        key = ec.generate_private_key(CURVE)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            self._builder(_name(SUPERLINK), key.public_key())
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        write_whole(folder / "server.crt", certificate.public_bytes(Encoding.PEM), mode=0o600)
        write_whole(folder / "server.key", _pem(key), mode=0o600)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=self._days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        )


def make_credentials(folder: Path, nodes: Sequence[str], names: str, days: int) -> list[str]:
    """Make what lacks in ``folder`` of what a federation's processes need, a folder for each.

    ::

        superlink/   ca.crt, server.crt, server.key, superexec.secret
        superexec/   ca.crt, superexec.secret
        client/      ca.crt and each node's public key: for who registers nodes and submits runs
        NODE/        ca.crt, node.key, node.key.pub

    The authority's key is thrown away: to renew the certificate, or to change its names, remove
    ``superlink/`` and make it again, which gives every process a new ``ca.crt``.

    Parameters
    ----------
    nodes : sequence of str
        The nodes' names.
    names : str
        By which the SuperLink is reached, as :func:`read_names` reads them.
    days : int
        How long certificates are good for.

    Returns
    -------
    list of str
        What was made, a line each.

    Raises
    ------
    SettingsError
        A name or the number of days cannot be used.
    StorageError
        The folder cannot be written.
    """
    alternatives = read_names(names)
    if not 1 <= days <= MOST_DAYS:
        raise SettingsError(f"certificates are good for 1 to {MOST_DAYS} days, not for {days}")
    for node in nodes:
        if not _NODE.fullmatch(node) or node in (SUPERLINK, SUPEREXEC, CLIENT):
            raise SettingsError(f"a node cannot be called {node!r}: its folder will have this name")
    made = []
    server = folder / SUPERLINK
    if not server.exists():
        with whole_folder(server) as new:
            new.chmod(0o700)
            write_server_credentials(new, alternatives, days)
        made.append(f"{SUPERLINK}: certificate for {names}, {days} days")
    _copy(server, folder / SUPEREXEC, CA_CERTIFICATE, SECRET)
    _copy(server, folder / CLIENT, CA_CERTIFICATE)
    for node in nodes:
        key = folder / node / NODE_KEY
        _copy(server, key.parent, CA_CERTIFICATE)
        if not key.exists():
            write_node_key(key, node)
            made.append(f"{node}: key")
        write_whole(folder / CLIENT / f"{node}.pub", public_key(key).read_bytes(), mode=0o600)
    return made


def write_server_credentials(folder: Path, names: Sequence[x509.GeneralName], days: int) -> None:
    """Write ``ca.crt``, ``server.crt`` and ``server.key`` of a SuperLink that is reached by these
    names, and the secret that it shares with its superexec.
    """
    authority = Authority(days)
    authority.write(folder / CA_CERTIFICATE)
    authority.write_server(folder, names)
    write_whole(folder / SECRET, secrets.token_hex(32).encode(), mode=0o600)


def write_node_key(file: Path, name: str) -> None:
    """Write a node's private key, and with ``.pub`` behind its name the public one, as
    ``ssh-keygen -t ecdsa -b 384`` does.
    """
    key = ec.generate_private_key(CURVE)
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    # The private one last: where it is, both are.
    write_whole(public_key(file), public + f" {name}\n".encode(), mode=0o600)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    write_whole(file, private, mode=0o600)


def public_key(private: Path) -> Path:
    """Return where the public key of a private one is."""
    return private.with_name(private.name + ".pub")


def read_names(text: str) -> list[x509.GeneralName]:
    """Read names and addresses of a server, such as ``DNS:superlink,IP:127.0.0.1``.

    Raises
    ------
    SettingsError
        One is neither (names it), or there is none.
    """
    names: list[x509.GeneralName] = []
    for word in text.split(","):
        kind, _, value = word.strip().partition(":")
        try:
            if kind == "IP":
                names.append(x509.IPAddress(ipaddress.ip_address(value)))
                continue
        except ValueError:
            pass
        if kind != "DNS" or not _HOST.fullmatch(value):
            raise SettingsError(
                f"{word!r} is no name of a server: give DNS:name or IP:address, with commas between"
            )
        names.append(x509.DNSName(value))
    return names


def _copy(source: Path, target: Path, *names: str) -> None:
    with writing(target):
        target.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in names:
        write_whole(target / name, (source / name).read_bytes(), mode=0o600)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
