"""TLS: one SSLContext for all connections, and the files that it is made of.

The server's certificate and its name are always checked; nothing turns that off.
"""

import logging
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from agent import clock
from agent.errors import SettingsError
from agent.link.expiry import Certificate, Reminder, certificate

log = logging.getLogger(__name__)

# Python 3.13 adds VERIFY_X509_STRICT by itself, 3.11 does not: a CA that was good must not become bad by an update of
# the system. What the CA file lists is trusted, also where it is not a root.
_FLAGS = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
_LOOK_EVERY = 3600.0  # seconds

Stamp = tuple[tuple[int, int, int] | None, ...]
"""By which a file is known to have changed: its time in ns, size and inode; None where there is none."""


class Tls:
    """The context of all connections, made anew when its files change.

    `ca_file` holds the certificates of those who may vouch for a server's; None: the system's. `cert_file` is the
    client certificate with its chain, None: none; `key_file` its private key, None: it is in `cert_file`, too.
    Raises SettingsError where they cannot be used. Later, files that cannot be used only cost a warning.

    Of certificates that end soon it warns 30 and 7 days ahead and when they have ended, each once, and once at a start.
    """

    def __init__(self, *, ca_file: Path | None, cert_file: Path | None, key_file: Path | None) -> None:
        self._ca_file = ca_file
        self._cert_file = cert_file
        self._key_file = key_file
        self._reminder = Reminder()
        self._peers: dict[str, Certificate] = {}
        self._look_at = 0.0
        self._stamp = self._stamp_now()
        self._context, self._own = self._read()

    @property
    def has_certificate(self) -> bool:
        """Whether this side has a certificate to show."""
        return self._cert_file is not None

    @property
    def trusted(self) -> str:
        """Who may vouch for a server, for messages."""
        return "the system's list of CAs" if self._ca_file is None else str(self._ca_file)

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """Those in use: the client's, the CA file's, and what each server has shown last."""
        return (*self._own, *self._peers.values())

    def context(self) -> ssl.SSLContext:
        """Return the context for the next connection: of the files as they are now, or as they last were usable."""
        if self._stamp_now() != self._stamp:
            self.reload()
        self._remind()
        return self._context

    def reload(self) -> None:
        """Read the files again; those that cannot be used change nothing, but for a warning."""
        self._stamp = self._stamp_now()
        try:
            self._context, self._own = self._read()
        except SettingsError as exc:
            log.warning("%s; the certificates that were read before stay in use", exc)
        else:
            log.info("the certificates were read again; the next connection uses them")

    def met(self, server: str, decoded: Mapping[str, Any]) -> None:
        """Note the certificate that a server has shown."""
        self._peers[server] = certificate(f"the certificate of {server}", decoded)
        self._remind()

    def remind(self) -> None:
        """Warn of certificates that end soon. It may be called often, and looks once an hour."""
        if clock.monotonic() >= self._look_at:
            self._remind()

    def _remind(self) -> None:
        self._look_at = clock.monotonic() + _LOOK_EVERY
        for line in self._reminder.due(self.certificates, clock.unix_ms() / 1000):
            log.warning("%s", line)

    def _stamp_now(self) -> Stamp:
        ca_file = self._ca_file or _system_file()
        return tuple(_stamp(file) for file in (ca_file, self._cert_file, self._key_file) if file is not None)

    def _read(self) -> tuple[ssl.SSLContext, tuple[Certificate, ...]]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which checks certificate and name
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_flags = _FLAGS
        own: list[Certificate] = []
        if self._cert_file is not None:
            own.append(_show(context, self._cert_file, self._key_file))
        if self._ca_file is None:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        else:
            _trust(context, self._ca_file)
            own += [certificate("the CA certificate", decoded) for decoded in context.get_ca_certs()]
        return context, tuple(own)


def _system_file() -> Path | None:
    file = ssl.get_default_verify_paths().cafile
    return Path(file) if file else None


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        stat = file.stat()
    except (OSError, ValueError):  # a NUL in the path
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _trust(context: ssl.SSLContext, file: Path) -> None:
    """Trust the certificates of a file. Raises SettingsError."""
    _pem(file, "broker.ca_file", "CERTIFICATE-----")
    try:
        context.load_verify_locations(cafile=file)
    except (OSError, ValueError) as exc:
        raise SettingsError(f"cannot use broker.ca_file {file}: {_reason(exc)}") from exc


def _show(context: ssl.SSLContext, cert_file: Path, key_file: Path | None) -> Certificate:
    """Show the certificate of these files to servers that ask for one. Raises SettingsError."""
    _pem(cert_file, "broker.cert_file", "CERTIFICATE-----")
    if key_file is None and b"PRIVATE KEY-----" not in _content(cert_file, "broker.cert_file"):
        raise SettingsError(
            f"cannot use broker.cert_file {cert_file}: there is no private key in it, and broker.key_file is not set"
        )
    if key_file is not None:
        _pem(key_file, "broker.key_file", "PRIVATE KEY-----")
    name, file = ("broker.cert_file", cert_file) if key_file is None else ("broker.key_file", key_file)

    def no_passphrase() -> NoReturn:  # OpenSSL would ask on the terminal
        raise SettingsError(
            f"cannot use {name} {file}: the key has a passphrase, which nobody can type here;"
            f" take it off: openssl pkey -in {file} -out NEW-FILE"
        )

    try:
        context.load_cert_chain(cert_file, key_file, password=no_passphrase)
        # Decodes the first certificate, which is the one that is shown. tests/unit/test_tls.py holds Python to it.
        decoded = ssl._ssl._test_decode_cert(cert_file)  # type: ignore[attr-defined] # noqa: SLF001
    except (OSError, ValueError) as exc:
        if isinstance(exc, ssl.SSLError) and exc.reason == "KEY_VALUES_MISMATCH":
            raise SettingsError(
                f"cannot use {name} {file}: the key does not belong to the first certificate in {cert_file}"
            ) from exc
        raise SettingsError(f"cannot use broker.cert_file {cert_file} with its key: {_reason(exc)}") from exc
    return certificate("the client certificate", decoded)


def _pem(file: Path, setting: str, holds: str) -> None:
    """Raise SettingsError unless the file can be read, and looks as if it held the thing in PEM."""
    if holds.encode() not in _content(file, setting):
        thing = "certificate" if holds.startswith("CERTIFICATE") else "private key"
        raise SettingsError(
            f"cannot use {setting} {file}: there is no {thing} in PEM format in it (-----BEGIN {holds})"
        )


def _content(file: Path, setting: str) -> bytes:
    try:
        return file.read_bytes()
    except (OSError, ValueError) as exc:
        raise SettingsError(f"cannot read {setting} {str(file)!r}: {_reason(exc)}") from exc


def _reason(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLError):
        return (exc.reason or "not valid").replace("_", " ").lower()
    return str(exc.strerror if isinstance(exc, OSError) else exc)
