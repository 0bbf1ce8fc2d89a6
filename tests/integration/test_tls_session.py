"""Sessions over TLS, before a real mosquitto and before peers that fail the handshake."""

import asyncio
import gc
import re
import signal
import ssl
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from agent import clock
from agent.errors import Cause, LinkDownError
from agent.link.opening import Hello, open_session
from agent.link.session import Session
from agent.link.tls import Tls
from agent.model import Message, Server
from tests.support.authority import Authority, Pair
from tests.support.child import Child, program
from tests.support.mosquitto import Mosquitto
from tests.support.ports import free_port


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "theirs")


@pytest.fixture(scope="module")
def server(ours: Authority) -> Pair:
    return ours.pair("server")


@pytest.fixture(scope="module")
def client(ours: Authority) -> Pair:
    return ours.pair("client")


@pytest.fixture(autouse=True)
def _nothing_is_told_behind_our_back(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """asyncio logs what nobody fetched, and transports that were forgotten."""
    yield
    gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio"] == []


def mosquitto_with(pair: Pair, *extra: str) -> Mosquitto:
    return Mosquitto(extra=[f"certfile {pair.cert}", f"keyfile {pair.key}", *extra])


def trusting(authority: Authority, pair: Pair | None = None) -> Tls:
    return Tls(ca_file=authority.cert, cert_file=pair and pair.cert, key_file=pair and pair.key)


@asynccontextmanager
async def session(port: int, tls: Tls | None, *, host: str = "localhost", within: float = 20) -> AsyncIterator[Session]:
    hello = Hello(
        server=Server(host=host, port=port, is_tls=tls is not None), client_id="robot", tls=tls, hello_timeout=within
    )
    async with open_session(hello) as one:
        yield one


async def refused(port: int, tls: Tls | None, *, host: str = "localhost", within: float = 20) -> LinkDownError:
    with pytest.raises(LinkDownError) as caught:
        async with session(port, tls, host=host, within=within):
            pass
    return caught.value


async def works(one: Session) -> None:
    assert await one.publish(Message(topic="a", payload=b"x" * 300_000)) < 0x80
    await one.finish(within=10)
    assert one.ended.done()
    assert one.ended.result().cause is Cause.CLOSED


# What goes well.


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_messages_go_both_ways_and_the_end_is_clean(host: str, ours: Authority, server: Pair) -> None:
    async with mosquitto_with(server) as broker, session(broker.port, trusting(ours), host=host) as one:
        await one.subscribe("echo")
        assert await one.publish(Message(topic="echo", payload=b"x" * 300_000)) < 0x80
        async with asyncio.timeout(20):
            inbound = await one.inbound.get()
        assert inbound.payload == b"x" * 300_000
        one.acknowledge(inbound)
        await works(one)
        assert broker.matching("Client robot disconnected.$")


async def test_a_client_certificate_is_shown_where_the_broker_asks_for_one(
    ours: Authority, server: Pair, client: Pair, tmp_path: Path
) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(client.key.read_bytes() + client.cert.read_bytes())
    wants = (f"cafile {ours.cert}", "require_certificate true", "use_identity_as_username true")
    async with mosquitto_with(server, *wants) as broker:
        for tls in (trusting(ours, client), Tls(ca_file=ours.cert, cert_file=both, key_file=None)):
            async with session(broker.port, tls) as one:
                await works(one)
        assert len(broker.matching("as robot .*u'client'")) == 2


async def test_the_server_s_own_certificate_may_stand_in_the_place_of_its_authority_s(server: Pair) -> None:
    tls = Tls(ca_file=server.cert, cert_file=None, key_file=None)
    async with mosquitto_with(server) as broker, session(broker.port, tls) as one:
        await works(one)


async def test_what_the_server_shows_is_kept_with_its_end(ours: Authority, caplog: pytest.LogCaptureFixture) -> None:
    ending = ours.pair("ending", starts=timedelta(days=-100), ends=timedelta(days=3))
    tls = trusting(ours)
    async with mosquitto_with(ending) as broker:
        for _ in range(2):
            async with session(broker.port, tls) as one:
                await works(one)
        assert [kept.subject for kept in tls.certificates] == ["ours", "ending"]
        assert caplog.text.count(f"the certificate of localhost:{broker.port} (ending) expires in 3 days") == 1


async def test_what_waits_on_this_machine_is_counted_above_and_below_tls(ours: Authority, server: Pair) -> None:
    async with mosquitto_with(server) as broker, session(broker.port, trusting(ours)) as one:
        assert one._handler.unsent() == 0
        broker.freeze()
        for _ in range(2):  # the first fills what is below, the second waits above
            one.send([(0, False, Message(topic="a", payload=b"x" * 900_000, qos=0)) for _ in range(20)])
        wire, above = one._handler._wire, one._handler._transport
        assert wire is not None
        assert above is not None
        assert wire.get_write_buffer_size() > 0
        assert above.get_write_buffer_size() > 0
        assert one._handler.unsent() > wire.get_write_buffer_size() + above.get_write_buffer_size()
        assert not one.is_clear
        broker.thaw()


async def test_little_is_taken_that_the_network_does_not_take(ours: Authority, server: Pair) -> None:
    async with mosquitto_with(server) as broker, session(broker.port, trusting(ours)) as one:
        broker.freeze()
        while one.is_clear:
            one.send([(0, False, Message(topic="a", payload=b"x" * 1000, qos=0))])
        wire, above = one._handler._wire, one._handler._transport
        assert wire is not None
        assert above is not None
        assert 60_000 < wire.get_write_buffer_size() + above.get_write_buffer_size() < 80_000
        broker.thaw()


async def test_a_session_that_stays_up_for_days_tells_of_certificates_that_end(
    ours: Authority, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = trusting(ours)
    pair = ours.pair("later", starts=timedelta(days=-100), ends=timedelta(days=40))
    async with mosquitto_with(pair) as broker, session(broker.port, tls) as one:
        assert "expires" not in caplog.text
        now = clock.unix_ms()
        monkeypatch.setattr(clock, "unix_ms", lambda: now + 11 * 86_400_000)
        monkeypatch.setattr(tls, "_look_at", 0.0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await one.watch()
        assert caplog.text.count(f"the certificate of localhost:{broker.port} (later) expires in 29 days") == 1


async def test_what_a_connection_needed_is_free_at_its_end_without_waiting_for_garbage_collection(
    ours: Authority, server: Pair
) -> None:
    gc.collect()
    gc.disable()
    try:
        async with mosquitto_with(server) as broker:
            tls = trusting(ours)
            for end in (works, None):
                async with session(broker.port, tls) as one:
                    assert one._handler._transport is not None
                    spoken = weakref.ref(one._handler._transport.get_extra_info("ssl_object"))
                    if end is not None:
                        await end(one)
                assert spoken() is None
    finally:
        gc.enable()


async def test_what_a_failed_handshake_needed_is_free_without_waiting_for_garbage_collection(
    theirs: Authority, server: Pair
) -> None:
    gc.collect()
    gc.disable()
    try:
        async with mosquitto_with(server) as broker:
            tls = trusting(theirs)
            for _ in range(3):
                assert (await refused(broker.port, tls)).cause is Cause.TLS
            for _ in range(3):
                await asyncio.sleep(0)
            assert [one for one in gc.get_objects() if isinstance(one, ssl.SSLObject)] == []
    finally:
        gc.enable()


async def test_a_session_with_much_unsent_ends_at_once_when_it_is_given_up(ours: Authority, server: Pair) -> None:
    loop = asyncio.get_running_loop()
    async with mosquitto_with(server) as broker:
        async with session(broker.port, trusting(ours)) as one:
            broker.freeze()
            one.send([(0, False, Message(topic="a", payload=b"x" * 900_000, qos=0)) for _ in range(20)])
            before = loop.time()
        assert loop.time() - before < 1
        broker.thaw()


# Servers that are not to be trusted.


async def test_an_unknown_authority_is_refused(theirs: Authority, server: Pair) -> None:
    async with mosquitto_with(server) as broker:
        why = await refused(broker.port, trusting(theirs))
        assert why.cause is Cause.TLS
        assert f"nobody in {theirs.cert} vouches for the certificate of localhost:{broker.port}" in str(why)
        assert "broker.ca_file" in str(why)
        why = await refused(broker.port, Tls(ca_file=None, cert_file=None, key_file=None))
        assert "nobody in the system's list of CAs vouches for" in str(why)
        assert not broker.matching("New client connected")


@pytest.mark.parametrize(
    ("names", "host"),
    [("DNS:other.example", "localhost"), ("DNS:localhost", "127.0.0.1"), ("IP:127.0.0.2", "127.0.0.1"),
     ("DNS:127.0.0.1", "127.0.0.1")],
)  # fmt: skip
async def test_another_name_is_refused(ours: Authority, names: str, host: str) -> None:
    async with mosquitto_with(ours.pair("localhost", names=names)) as broker:
        why = await refused(broker.port, trusting(ours), host=host)
    assert why.cause is Cause.TLS
    assert f"the certificate of {host}:{broker.port} is not for {host}: use a name" in str(why)


@pytest.mark.parametrize(
    ("starts", "ends", "told"),
    [(-9, -1, "has expired by this machine's clock"), (1, 9, "is not valid yet by this machine's clock")],
)
async def test_a_certificate_out_of_its_time_is_told_with_this_machine_s_clock(
    ours: Authority, starts: int, ends: int, told: str
) -> None:
    pair = ours.pair("timely", starts=timedelta(days=starts), ends=timedelta(days=ends))
    async with mosquitto_with(pair) as broker:
        why = await refused(broker.port, trusting(ours))
    assert why.cause is Cause.TLS
    assert re.search(rf"{told}, which reads 20\d\d-\d\d-\d\d \d\d:\d\d UTC: ", str(why))


# Servers that do not trust us.


async def test_a_server_that_wants_a_certificate_says_so_only_after_the_handshake(
    ours: Authority, theirs: Authority, server: Pair
) -> None:
    wants = (f"cafile {ours.cert}", "require_certificate true")
    async with mosquitto_with(server, *wants) as broker:
        for pair, told in [
            (None, "the server wants a client certificate: set broker.cert_file and broker.key_file"),
            (theirs.pair("stranger"), "the server refuses our certificate (tlsv1 alert unknown ca): see broker.cert"),
            (ours.pair("old", starts=timedelta(days=-9), ends=timedelta(days=-1)), "certificate expired): see broker."),
        ]:
            why = await refused(broker.port, trusting(ours, pair))
            # The alert may be lost to the RST that follows it.
            assert told in str(why) or "before CONNACK; the server may want another client certificate" in str(why)
            assert not why.cause.is_own_link


@asynccontextmanager
async def s_server(pair: Pair, *options: str) -> AsyncIterator[tuple[Child, int]]:
    """OpenSSL's own server, which can be as old as need be; it speaks no MQTT."""
    port = free_port()
    argv = (program("openssl", package="openssl"), "s_server", "-accept", f"127.0.0.1:{port}",
            "-cert", pair.cert, "-key", pair.key, "-www", *options)  # fmt: skip
    child = await Child.spawn(argv, name="openssl s_server")
    try:
        await child.line("^ACCEPT", lines=child.out, within=30)
        yield child, port
    finally:
        await child.end()


async def test_a_server_without_a_modern_version_of_tls_is_refused(ours: Authority, server: Pair) -> None:
    async with s_server(server, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0") as (_, port):
        why = await refused(port, trusting(ours))
    assert why.cause is Cause.TLS
    assert "speaks no version of TLS from 1.2 on" in str(why)


async def test_tls_1_2_is_spoken_and_there_the_handshake_itself_is_refused(ours: Authority, server: Pair) -> None:
    async with s_server(server, "-tls1_2") as (_, port):
        assert "sent no CONNACK for 1 s" in str(await refused(port, trusting(ours), within=1))
    async with s_server(server, "-tls1_2", "-Verify", "1", "-CAfile", str(ours.cert)) as (_, port):
        why = await refused(port, trusting(ours))
        assert why.cause is Cause.TLS
        assert "the server refuses the handshake: it may want a client certificate (broker.cert_file)" in str(why)


# Peers that speak something else, or nothing.


async def test_mqtts_to_a_port_without_tls_is_told(ours: Authority, mosquitto: Mosquitto) -> None:
    why = await refused(mosquitto.port, trusting(ours))
    assert why.cause is Cause.TLS
    assert f"hung up in the handshake: is port {mosquitto.port} the one on which it speaks TLS?" in str(why)


async def test_mqtt_to_a_port_with_tls_ends_in_a_reset(server: Pair) -> None:
    async with mosquitto_with(server) as broker:
        why = await refused(broker.port, None)
    assert why.cause in {Cause.RESET, Cause.CLOSED}


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    """A peer that answers the first bytes with these, and says no more. At the end, all connections must be left."""
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        try:
            await reader.read(1)
            writer.write(answer)
            while await reader.read(4096):
                pass
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1]
        async with asyncio.timeout(10):
            await asyncio.gather(*(task for task in serving if task is not None))


async def test_a_peer_that_answers_in_another_language_is_told(ours: Authority) -> None:
    async with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        why = await refused(port, trusting(ours))
    assert why.cause is Cause.TLS
    assert "the server does not speak TLS on this port: use another port, or mqtt://" in str(why)


async def test_a_peer_that_never_answers_is_given_up_in_time(ours: Authority) -> None:
    loop = asyncio.get_running_loop()
    async with answering(b"") as port:
        before = loop.time()
        why = await refused(port, trusting(ours), within=0.5)
        assert 0.5 <= loop.time() - before < 2
    assert why.cause is Cause.NO_CONNACK
    assert "did not complete the TLS handshake in time" in str(why)


async def test_tls_and_connack_share_one_time_out(ours: Authority, server: Pair) -> None:
    loop = asyncio.get_running_loop()
    async with s_server(server) as (child, port):
        child.signal(signal.SIGSTOP)
        loop.call_later(0.8, child.signal, signal.SIGCONT)
        before = loop.time()
        why = await refused(port, trusting(ours), within=1.2)
        assert 1.2 <= loop.time() - before < 1.7
    assert "sent no CONNACK for 1.2 s" in str(why)


async def test_a_handshake_that_is_cancelled_leaves_nothing_behind(ours: Authority) -> None:
    tls = trusting(ours)
    async with answering(b"") as port:
        for turns in range(15):
            attempt = asyncio.get_running_loop().create_task(refused(port, tls))
            for _ in range(turns):
                await asyncio.sleep(0)
            attempt.cancel()
            await asyncio.wait([attempt])
            assert attempt.cancelled()


async def test_an_attempt_that_is_cancelled_at_any_moment_leaves_no_connection(ours: Authority, server: Pair) -> None:
    async def attempt(port: int) -> None:
        async with session(port, trusting(ours)):
            await asyncio.Event().wait()

    async with mosquitto_with(server) as broker:
        for turns in range(40):
            task = asyncio.get_running_loop().create_task(attempt(broker.port))
            for _ in range(turns):
                await asyncio.sleep(0.0005)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
        # Nothing of them is left: a client with the same identifier takes over nobody's session.
        async with session(broker.port, trusting(ours)) as one:
            await works(one)
