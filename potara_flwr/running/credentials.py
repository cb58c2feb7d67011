"""Certificates and keys: a certificate authority, a server's certificate, a key pair for a node.

What ``docs/guides/deployment.md`` does with openssl and ssh-keygen, for one machine: private keys
never leave the folder they are written to, and only their owner can read them.
"""

from __future__ import annotations

import ipaddress
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

VALID_DAYS = 7
CURVE = ec.SECP384R1()
"""P-384: of the curves that Flower takes for nodes."""


class Authority:
    """A certificate authority of its own, whose key is kept in memory only.

    Parameters
    ----------
    name : str
        Its common name.
    """

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(CURVE)
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
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

    def write(self, file: Path) -> Path:
        """Write its certificate, which clients trust."""
        file.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        return file

    def write_server(
        self, folder: Path, names: tuple[str, ...], addresses: tuple[str, ...]
    ) -> None:
        """Write ``server.crt`` and ``server.key`` of a server that is reached by these DNS names
        and IP addresses: without them in the certificate no client connects.
        """
        key = ec.generate_private_key(CURVE)
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(text)) for text in addresses]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            self._builder(subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        (folder / "server.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_secret(folder / "server.key", private)

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
            .not_valid_after(now + timedelta(days=VALID_DAYS))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        )


def write_node_key(folder: Path) -> Path:
    """Write a node's key pair, ``key`` and ``key.pub``, as ``ssh-keygen -t ecdsa -b 384`` does;
    return the private one.
    """
    key = ec.generate_private_key(CURVE)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    write_secret(folder / "key", private)
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    (folder / "key.pub").write_bytes(public + b"\n")
    return folder / "key"


def write_secret(file: Path, content: bytes) -> None:
    """Write a file that its owner alone can read."""
    file.touch(mode=0o600)
    file.write_bytes(content)
