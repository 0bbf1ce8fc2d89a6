"""The tests' own mosquitto, subscriber and processes: what they promise to the other tests."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tomllib
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.agent_process import ROOT, AgentProcess, Setting, toml
from tests.support.child import Child, ChildEndedError, program
from tests.support.mosquitto import Mosquitto
from tests.support.packets import Connack, Connect, Puback, Publish
from tests.support.ports import free_port
from tests.support.raw_client import RawClient
from tests.support.subscriber import Message, Row, Subscriber, records


async def publish(port: int, *messages: Publish) -> None:
    """Send each message, and wait for the broker's acknowledgement where it gives one."""
    async with RawClient(port) as client:
        await client.connect(Connect(client_id="publisher", clean_start=True))
        for message in messages:
            client.send(message)
            if message.qos:
                await client.receive(Puback)
        await client.ping()


def telemetry(payload: bytes, *, qos: int = 1, topic: str = "device/r1/telemetry/imu", retain: bool = False) -> Publish:
    return Publish(topic=topic, payload=payload, qos=qos, retain=retain, packet_id=1 if qos else None)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# mosquitto


async def test_a_broker_answers_as_soon_as_it_has_started(mosquitto: Mosquitto) -> None:
    async with RawClient(mosquitto.port) as client:
        connack = await client.connect()
    assert connack.reason == 0
    assert connack.properties["receive_maximum"] == 1000


async def test_a_broker_leaves_no_process_behind_even_when_the_test_fails(tmp_path: Path) -> None:
    pids: list[int] = []

    async def fail() -> None:
        async with Mosquitto(tmp_path) as broker:
            pids.append(broker.pid)
            broker.freeze()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert is_gone(pids[0])


async def test_a_broker_leaves_no_process_behind_when_the_test_is_cancelled(tmp_path: Path) -> None:
    pids: list[int] = []

    async def be_cancelled() -> None:
        async with asyncio.timeout(None) as patience, Mosquitto(tmp_path) as broker:
            pids.append(broker.pid)
            patience.reschedule(asyncio.get_running_loop().time())
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await be_cancelled()
    assert is_gone(pids[0])


async def test_a_broker_without_a_folder_takes_one_and_removes_it() -> None:
    async with Mosquitto() as broker:
        assert broker.folder.is_dir()
    assert not broker.folder.exists()


async def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path, extra=["no_such_option true"])
    with pytest.raises(ChildEndedError, match="no_such_option"):
        await broker.start()
    with pytest.raises(ChildEndedError, match="no_such_option"):
        broker.freeze()


async def test_a_broker_takes_another_port_when_its_own_was_just_taken(
    tmp_path: Path, mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = iter([mosquitto.port, mosquitto.port, free_port()])
    monkeypatch.setattr("tests.support.mosquitto.free_port", lambda: next(ports))
    async with Mosquitto(tmp_path / "second") as second:
        assert second.port != mosquitto.port
        await publish(second.port, telemetry(b"1"))


async def test_a_restart_is_on_the_same_port_and_keeps_what_was_saved(mosquitto: Mosquitto) -> None:
    port = mosquitto.port
    await publish(port, telemetry(b"saved", topic="device/a", retain=True))
    await mosquitto.save()
    await publish(port, telemetry(b"lost", topic="device/b", retain=True))
    await mosquitto.kill()
    with pytest.raises(ConnectionRefusedError):
        await publish(port, telemetry(b"1"))
    await mosquitto.restart()
    assert mosquitto.port == port
    async with Subscriber(port) as subscriber:
        await publish(port, telemetry(b"end"))
        await subscriber.wait_for(lambda messages: messages[-1:] and messages[-1].payload == b"end")
    assert [(message.payload, message.retain) for message in subscriber.messages] == [(b"saved", True), (b"end", False)]


async def test_a_restart_of_a_running_broker_is_orderly_and_loses_nothing(mosquitto: Mosquitto) -> None:
    await publish(mosquitto.port, telemetry(b"kept", retain=True))
    before = mosquitto.pid
    await mosquitto.restart()
    assert mosquitto.pid != before
    async with Subscriber(mosquitto.port) as subscriber:
        (message,) = await subscriber.wait_for(lambda messages: messages)
    assert message.payload == b"kept"


async def test_each_save_is_waited_for(mosquitto: Mosquitto) -> None:
    sizes = []
    for number in range(5):
        await publish(mosquitto.port, telemetry(bytes(1000), topic=f"device/{number}", retain=True))
        await mosquitto.save()
        sizes.append(mosquitto.database.stat().st_size)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] - sizes[0] > 4000


async def test_a_frozen_broker_takes_connections_and_answers_nothing(mosquitto: Mosquitto) -> None:
    mosquitto.freeze()
    async with RawClient(mosquitto.port) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await client.connect()
        mosquitto.thaw()
        assert (await client.receive(Connack)).reason == 0


# subscriber

AWKWARD = [b"", b'{"a": "x\\"y"}', b"two\nlines", bytes(range(256)), b"\x00", "é\u2028".encode(), b"x" * 300_000]


async def test_a_subscriber_gets_every_byte_topic_and_qos_in_order(mosquitto: Mosquitto) -> None:
    topics = ["device/r1/telemetry/imu", 'device/with space and "quotes"', "device/é"]
    sent = [telemetry(payload, qos=qos, topic=topic) for payload in AWKWARD for qos in (0, 1) for topic in topics]
    async with Subscriber(mosquitto.port) as subscriber:
        await publish(mosquitto.port, *sent)
        await subscriber.wait_for(lambda messages: len(messages) == len(sent))
    assert [(m.topic, m.payload, m.qos, m.retain) for m in subscriber.messages] == [
        (p.topic, p.payload, p.qos, False) for p in sent
    ]


async def test_a_subscriber_tells_the_properties_of_a_message(mosquitto: Mosquitto) -> None:
    message = Publish(
        topic="device/r1/event/door",
        payload=b'{"epoch": 1}',
        properties={"content_type": "application/json", "message_expiry_interval": 60, "user_property": (("k", "v"),)},
    )
    async with Subscriber(mosquitto.port) as subscriber:
        await publish(mosquitto.port, message)
        (received,) = await subscriber.wait_for(lambda messages: messages)
    assert received.json() == {"epoch": 1}
    assert received.properties == {
        "content-type": "application/json",
        "message-expiry-interval": 60,
        "user-properties": {"k": "v"},
    }


async def test_a_subscribers_session_survives_the_power_cut_of_its_broker(mosquitto: Mosquitto) -> None:
    def arrived(payload: bytes) -> Callable[[list[Message]], bool]:
        return lambda messages: any(message.payload == payload for message in messages)

    async with Subscriber(mosquitto.port) as subscriber:
        await publish(mosquitto.port, telemetry(b"1"))
        await subscriber.wait_for(arrived(b"1"))
        await subscriber.stop()
        await publish(mosquitto.port, telemetry(b"2"))
        await mosquitto.save()
        await mosquitto.kill()
        await mosquitto.restart()
        await subscriber.start()
        await subscriber.wait_for(arrived(b"2"))
        await mosquitto.save()
        await mosquitto.kill()
        await mosquitto.restart()
        # Whether it is back already or not: its session takes this one.
        await publish(mosquitto.port, telemetry(b"3"))
        await subscriber.wait_for(arrived(b"3"))
        await subscriber.wait_subscribed(3)
    # QoS 1: what was not acknowledged when the connection broke may come twice.
    assert list(dict.fromkeys(message.payload for message in subscriber.messages)) == [b"1", b"2", b"3"]


async def test_a_subscriber_that_died_fails_the_wait_at_once(mosquitto: Mosquitto) -> None:
    async with Subscriber(mosquitto.port) as subscriber:
        await subscriber.stop()
        with pytest.raises(ChildEndedError, match="mosquitto_sub"):
            await subscriber.wait_for(lambda messages: messages)


def test_records_are_read_from_telemetry_batches_backfill_and_events() -> None:
    def row(seq: int) -> dict[str, int]:
        return {"ts": 5, "epoch": 1, "seq": seq, "x": seq}

    def message(topic: str, payload: bytes) -> Message:
        return Message(topic=f"device/r1/{topic}", payload=payload, qos=1, retain=False, properties={})

    def raw(value: object) -> bytes:
        return json.dumps(value).encode()

    messages = [
        message("telemetry/imu", raw(row(3))),
        message("status", raw({"status": "online", "epoch": 1})),
        message("telemetry/imu", raw([row(4), row(5)])),
        message("telemetry/imu/backfill", raw([row(1)])),
        message("telemetry/imu/backfill.z", zlib.compress(raw([row(2)]))),
        message("event/door", raw(row(1))),
        message("loss", raw({"stream": "imu", "epoch": 1, "first_seq": 1})),
    ]
    assert records(messages) == [
        *(Row("imu", 1, seq, row(seq)) for seq in (3, 4, 5, 1, 2)),
        Row("event/door", 1, 1, row(1)),
    ]


# processes

STAND_IN = """
import os, signal, sys, tomllib
settings = tomllib.load(open(sys.argv[-1], "rb"))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print(f"ready {settings['outbox']['path']} {settings.get('device_id')}", file=sys.stderr)
print(sorted(k for k in os.environ if k.startswith(("ROAMD_", "NOTIFY_"))), os.getcwd(), file=sys.stderr)
signal.pause()
"""


def stand_in(folder: Path, settings: dict[str, Setting], environment: dict[str, str] | None = None) -> AgentProcess:
    return AgentProcess(folder, settings, environment=environment, command=(sys.executable, "-c", STAND_IN))


async def test_an_agent_process_is_started_told_and_ended(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROAMD_DEVICE_ID", "stray")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    async with stand_in(state_dir, {"device_id": "r1"}, {"ROAMD_EXTRA": "1"}) as agent:
        match = await agent.wait_for_line(r"^ready (\S+) (\S+)")
        assert match.groups() == (str(state_dir / "outbox.db"), "r1")
        await agent.wait_for_line(rf"^\['ROAMD_EXTRA'\] {ROOT}$")
        agent.sigterm()
        assert await agent.wait() == 7
        with pytest.raises(ChildEndedError):
            await agent.wait_for_line("never")
        await agent.start()
        await agent.wait_for_line("^ready")
        await agent.kill()
        assert agent.child.returncode == -signal.SIGKILL
        await agent.start()
        pid = agent.child.pid
    assert is_gone(pid)


async def test_a_process_that_leaves_a_grandchild_with_its_pipes_is_waited_for_all_the_same() -> None:
    child = await Child.spawn(["sh", "-c", "echo last; sleep 3 & exit 3"], name="sh")
    assert await child.wait() == 3
    assert child.out == ["last"]


async def test_the_last_line_needs_no_newline() -> None:
    child = await Child.spawn(["printf", "one\\ntwo"], name="printf")
    assert await child.wait() == 0
    assert child.out == ["one", "two"]


async def test_a_child_dies_with_the_test_process() -> None:
    script = (
        "import asyncio, os\n"
        "from tests.support.child import Child\n"
        "async def main():\n"
        "    child = await Child.spawn(['sleep', '60'], name='sleep')\n"
        "    print(child.pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    parent = await Child.spawn([sys.executable, "-c", script], name="parent", cwd=ROOT)
    pid = int((await parent.line(r"^\d+$", lines=parent.out, within=30))[0])
    loop, ended, grandchild = asyncio.get_running_loop(), asyncio.Event(), os.pidfd_open(pid)
    loop.add_reader(grandchild, ended.set)
    try:
        await parent.end()
        async with asyncio.timeout(10):
            await ended.wait()
    finally:
        loop.remove_reader(grandchild)
        os.close(grandchild)


def test_settings_become_toml() -> None:
    settings: dict[str, Setting] = {
        "device_id": 'r"1\\é',
        "broker.urls": ["mqtt://a", "mqtt://b"],
        "broker.backoff.base": 0.1,
        "streams.cpu": {"interval": 1, "retain": True},
        'streams."a.b".interval': 2.5,
        "outbox.path": Path("/tmp/x.db"),
    }
    assert tomllib.loads(toml(settings)) == {
        "device_id": 'r"1\\é',
        "broker": {"urls": ["mqtt://a", "mqtt://b"], "backoff": {"base": 0.1}},
        "streams": {"cpu": {"interval": 1, "retain": True}, "a.b": {"interval": 2.5}},
        "outbox": {"path": "/tmp/x.db"},
    }


# conftest


def test_a_missing_program_is_a_skip_here_and_a_failure_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt install the-package"):
        program("no-such-program", package="the-package")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt install the-package"):
        program("no-such-program", package="the-package")


def test_mosquitto_is_found_where_debian_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert program("mosquitto", package="mosquitto").startswith("/usr")


CONDUCT = """
import asyncio, pytest
kept = []
async def test_leaves_a_task():
    kept.append(asyncio.get_running_loop().create_task(asyncio.sleep(60), name="stray"))
async def test_leaves_none():
    await asyncio.get_running_loop().create_task(asyncio.sleep(0))
def test_without_a_loop():
    pass
@pytest.mark.root(reason="network namespaces")
def test_as_root():
    pass
"""


def test_a_task_that_is_left_fails_its_test(tmp_path: Path) -> None:
    (tmp_path / "test_conduct.py").write_text(CONDUCT, encoding="utf-8")
    argv = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", "pyproject.toml"]
    result = subprocess.run([*argv, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "name='stray'" in result.stdout, result.stdout
    assert "ERROR" in result.stdout
    root = os.geteuid() == 0
    assert f"{4 if root else 3} passed" in result.stdout
    assert "1 error" in result.stdout
    assert root or "needs root: network namespaces" in result.stdout
