"""The TLS handshake, and what its failures mean to the person who has to mend them."""

import asyncio
import errno
import ssl
from datetime import UTC, datetime

from agent import clock
from agent.errors import Cause, LinkDownError
from agent.link.tls import Tls
from agent.model import Server

# X509_V_ERR_ of OpenSSL (x509_vfy.h), as SSLCertVerificationError.verify_code has them.
_NOT_YET_VALID = 9
_EXPIRED = 10
_UNKNOWN_CA = frozenset({2, 18, 19, 20, 21})
_OTHER_NAME = frozenset({62, 64})  # HOSTNAME_MISMATCH, IP_ADDRESS_MISMATCH

_PORT_OF_TLS = 8883

_NO_COMMON_VERSION = ("UNSUPPORTED_PROTOCOL", "PROTOCOL_VERSION", "WRONG_SSL_VERSION", "NO_PROTOCOLS_AVAILABLE")
_CERTIFICATE_WANTED = ("CERTIFICATE_REQUIRED",)
_CERTIFICATE_REFUSED = (
    "ALERT_UNKNOWN_CA",
    "ALERT_BAD_CERTIFICATE",
    "ALERT_CERTIFICATE_EXPIRED",
    "ALERT_CERTIFICATE_REVOKED",
    "ALERT_CERTIFICATE_UNKNOWN",
    "ALERT_UNSUPPORTED_CERTIFICATE",
    "ALERT_ACCESS_DENIED",
    "ALERT_DECRYPT_ERROR",
)
"""How the reasons of ssl.SSLError end; their beginnings tell the version of the standard that named them."""


async def encrypt(
    wire: asyncio.Transport, protocol: asyncio.Protocol, tls: Tls, server: Server, *, until: float
) -> asyncio.Transport:
    """Speak TLS on a connection, and return the transport for the protocol, which is told of it.

    It is done at `until`, a time of the event loop, or given up; then, and when it is cancelled, the connection is
    aborted. Raises LinkDownError.
    """
    loop = asyncio.get_running_loop()
    wire.set_write_buffer_limits(high=0)  # so that what waits, waits in the buffer above it
    try:
        async with asyncio.timeout_at(until):
            # asyncio's own time-out is to come after ours.
            transport = await loop.start_tls(
                wire,
                protocol,
                tls.context(),
                server_hostname=_name(server),
                ssl_handshake_timeout=max(0.0, until - loop.time()) + 1.0,
            )
    except OSError as exc:
        wire.abort()
        # Its traceback holds the protocol, which holds it: the connection would wait for garbage collection.
        raise _failed(exc, tls, server) from exc.with_traceback(None)
    except BaseException:
        wire.abort()
        raise
    if transport is None:
        raise LinkDownError(f"the connection to {server} was lost in the TLS handshake", cause=Cause.LOST)
    tls.met(str(server), transport.get_extra_info("peercert"))
    protocol.connection_made(transport)
    return transport


async def hear_refusal() -> None:
    """Let a refusal be read that has come already: a write that fails would be told in its place."""
    for _ in range(2):  # the event loop polls, and then reads
        await asyncio.sleep(0)


def _name(server: Server) -> str:
    """Return the name that the certificate has to have: without a root's dot and without an address's zone."""
    return server.host.removesuffix(".").partition("%")[0]


def _failed(exc: OSError, tls: Tls, server: Server) -> LinkDownError:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return LinkDownError(f"TLS: {_distrusted(exc, tls, server)}", cause=Cause.TLS)
    if isinstance(exc, ssl.SSLError) and not isinstance(exc, ssl.SSLZeroReturnError):
        return LinkDownError(f"TLS: {server}: {_meaning(exc)}", cause=Cause.TLS)
    if isinstance(exc, TimeoutError) and exc.errno is None:
        return LinkDownError(
            f"{server} accepted the connection, but did not complete the TLS handshake in time;"
            " it is overloaded, or does not speak TLS on this port",
            cause=Cause.NO_CONNACK,
        )
    if exc.errno in {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH}:
        return LinkDownError(f"the connection to {server} was lost in the TLS handshake: {exc}", cause=Cause.LOST)
    return LinkDownError(
        f"TLS: {server} hung up in the handshake: is port {server.port} the one on which it speaks TLS?",
        cause=Cause.TLS,
    )


def lost(exc: Exception) -> LinkDownError:
    """Return what the loss of a connection means. With TLS 1.3, a server refuses a client only after the handshake."""
    if isinstance(exc, ssl.SSLError):
        why = LinkDownError(f"TLS: the connection was lost: {_meaning(exc)}", cause=Cause.TLS)
    else:
        cause = Cause.RESET if isinstance(exc, ConnectionError) else Cause.LOST
        why = LinkDownError(f"the connection was lost: {exc}", cause=cause)
    why.__cause__ = exc
    return why


def hint(why: LinkDownError, server: Server) -> str:
    """Return what the end of a connection before CONNACK may mean beside what it says; empty: nothing.

    A server's last word is often lost: its RST overtakes the alert.
    """
    if why.cause is not Cause.CLOSED and not isinstance(why.__cause__, ConnectionError):
        return ""
    if server.is_tls:
        return "before CONNACK; the server may want another client certificate, or one at all: see broker.cert_file"
    if server.port == _PORT_OF_TLS:
        return f"before CONNACK; port {server.port} is usually for TLS: mqtts:// in broker.urls"
    return ""


def _distrusted(exc: ssl.SSLCertVerificationError, tls: Tls, server: Server) -> str:
    """Return why the server's certificate is not good enough, and what can be done."""
    here = f"{datetime.fromtimestamp(clock.unix_ms() // 1000, UTC):%Y-%m-%d %H:%M} UTC"
    if exc.verify_code in _OTHER_NAME:
        return (
            f"the certificate of {server} is not for {_name(server)}:"
            " use a name in broker.urls that is in the certificate, or have one made with this name"
        )
    if exc.verify_code in _UNKNOWN_CA:
        return (
            f"nobody in {tls.trusted} vouches for the certificate of {server} ({exc.verify_message}):"
            " put the certificate of its CA into broker.ca_file"
        )
    if exc.verify_code == _EXPIRED:
        return (
            f"the certificate of {server}, or one above it, has expired by this machine's clock,"
            f" which reads {here}: renew the certificate, or set the clock"
        )
    if exc.verify_code == _NOT_YET_VALID:
        return (
            f"the certificate of {server}, or one above it, is not valid yet by this machine's clock,"
            f" which reads {here}: set the clock"
        )
    return f"the certificate of {server} is not accepted: {exc.verify_message}"


def _meaning(exc: ssl.SSLError) -> str:
    """Return what an error of OpenSSL means, and what can be done; in OpenSSL's words where that is not known."""
    reason = getattr(exc, "reason", None) or ""
    words = reason.replace("_", " ").lower() or str(exc)
    if reason == "WRONG_VERSION_NUMBER":
        return "the server does not speak TLS on this port: use another port, or mqtt://"
    if reason.endswith(_NO_COMMON_VERSION):
        return f"the server speaks no version of TLS from 1.2 on ({words}): it needs an update"
    if reason.endswith(_CERTIFICATE_WANTED):
        return "the server wants a client certificate: set broker.cert_file and broker.key_file"
    if reason.endswith(_CERTIFICATE_REFUSED):
        return f"the server refuses our certificate ({words}): see broker.cert_file, and the server's log"
    if reason.endswith("ALERT_HANDSHAKE_FAILURE"):
        return "the server refuses the handshake: it may want a client certificate (broker.cert_file), or other ciphers"
    return words
