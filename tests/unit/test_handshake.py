"""What failures of the handshake mean."""

import errno
import ssl

import pytest

from agent.errors import Cause, LinkDownError
from agent.link.handshake import _failed, _name, hint, lost
from agent.link.tls import Tls
from agent.model import Server

TLS = Server(host="broker", port=8883, is_tls=True)


@pytest.mark.parametrize(
    ("host", "name"), [("broker", "broker"), ("broker.", "broker"), ("fe80::1%eth0", "fe80::1"), ("10.0.0.1",) * 2]
)
def test_the_name_in_the_certificate_is_the_host_s_without_a_root_s_dot_or_a_zone(host: str, name: str) -> None:
    assert _name(Server(host=host, port=8883, is_tls=True)) == name


def test_a_path_that_dies_in_the_handshake_is_the_robot_s_own_link() -> None:
    tls = Tls(ca_file=None, cert_file=None, key_file=None)
    for code in (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH):
        assert _failed(OSError(code, "gone"), tls, TLS).cause is Cause.LOST
    assert _failed(ConnectionResetError(), tls, TLS).cause is Cause.TLS
    assert _failed(TimeoutError(), tls, TLS).cause is Cause.NO_CONNACK
    assert not Cause.TLS.is_own_link


def test_a_hint_is_given_only_where_the_server_hung_up_without_a_word() -> None:
    closed = LinkDownError("closed", cause=Cause.CLOSED)
    reset = lost(ConnectionResetError(errno.ECONNRESET, "reset"))
    told = lost(ssl.SSLError(1, "alert"))
    dead = lost(TimeoutError(errno.ETIMEDOUT, "timed out"))
    assert told.cause is Cause.TLS
    assert (dead.cause, reset.cause) == (Cause.LOST, Cause.RESET)
    for server, said in [
        (TLS, "see broker.cert_file"),
        (Server(host="broker", port=8883), "port 8883 is usually for TLS: mqtts:// in broker.urls"),
    ]:
        assert said in hint(closed, server)
        assert said in hint(reset, server)
        assert hint(told, server) == hint(dead, server) == ""
    assert hint(reset, Server(host="broker", port=1883)) == ""
