"""The certificates of intercepted connections: an authority of this executor's own, whose key never leaves its memory.

Sandboxes of workflows with fill-ins trust it besides the roots of this host; nothing else does. It is made anew with
each start of the executor, with which the sandboxes that trusted the last one have ended.
"""

import ipaddress
import os
import ssl
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

import certifi
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from executor.egress.rules import plain_name
from kit.clock import Clock

BUNDLE = "ca-certificates.crt"
MAX_KEPT = 256
_LIFE = timedelta(days=3650)
_LEAF_LIFE = timedelta(days=30)
_RENEW = timedelta(days=7)
_SKEW = timedelta(days=1)
_SYSTEM_ROOTS = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


def roots(environ: Mapping[str, str]) -> Path:
    """A bundle of the authorities that this host trusts: SSL_CERT_FILE, the system's, or certifi's."""
    candidates = (environ.get("SSL_CERT_FILE", ""), *_SYSTEM_ROOTS)
    return Path(next((path for path in candidates if path and Path(path).is_file()), certifi.where()))


class Authority:
    """`directory` is what sandboxes are shown: it holds BUNDLE, `trusted` and our own certificate."""

    def __init__(self, directory: Path, trusted: Path, clock: Clock) -> None:
        """Errors: OSError."""
        self.directory = directory
        self._trusted = trusted
        self._clock = clock
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = self._own()
        self._contexts: OrderedDict[str, tuple[datetime, ssl.SSLContext]] = OrderedDict()
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        bundle = directory / BUNDLE
        bundle.write_bytes(trusted.read_bytes().rstrip() + b"\n" + _pem(self._certificate))
        for path, mode in ((directory, 0o755), (bundle, 0o644)):  # whatever the umask: sandboxes are other users
            path.chmod(mode)

    @cached_property
    def upstream(self) -> ssl.SSLContext:
        """For connections to real servers, whose chain and name are verified. Without our own authority."""
        context = ssl.create_default_context(cafile=os.fspath(self._trusted))
        context.set_alpn_protocols(["http/1.1"])
        return context

    def server(self, host: str) -> ssl.SSLContext:
        """For connections that were meant for this name or address. A client that names another one is refused."""
        now = self._clock.now()
        renew, context = self._contexts.get(host, (now, None))
        if context is None or renew <= now:
            context = self._context(host, now)
            self._contexts[host] = (now + _RENEW, context)
            while len(self._contexts) > MAX_KEPT:
                self._contexts.popitem(last=False)
        self._contexts.move_to_end(host)
        return context

    def _context(self, host: str, now: datetime) -> ssl.SSLContext:
        def named(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> int | None:
            with suppress(ValueError):
                if name is None or plain_name(name) == host:
                    return None
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.sni_callback = named
        chain = _pem(self._leaf(host, now)) + _pem(self._certificate)
        _load(context, chain + _private(self._leaf_key))
        return context

    def _own(self) -> x509.Certificate:
        usage = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        name, key, now = _name("Runmesh egress authority"), self._key.public_key(), self._clock.now()
        return (
            _builder(name, name, key, now, _LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _leaf(self, host: str, now: datetime) -> x509.Certificate:
        key, issuer = self._leaf_key.public_key(), self._certificate.subject
        above = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        return (
            _builder(_name("Runmesh egress"), issuer, key, now, _LEAF_LIFE)
            .add_extension(x509.SubjectAlternativeName([_general(host)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=False)
            .add_extension(above, critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + life)
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """`ssl` reads keys from files only: this one is in memory, and gone at once."""
    fd = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(pem)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
