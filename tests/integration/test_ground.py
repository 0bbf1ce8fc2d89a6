"""The other side against a real mosquitto: what the real agent sends, and what strangers do."""

import asyncio
import json
import signal
import zlib
from pathlib import Path

from agent import sources
from agent.model import Inbound, Message
from tests.support import outbox_file
from tests.support.agent_process import AgentProcess, Setting
from tests.support.agent_socket import AgentSocket
from tests.support.ground_process import GroundProcess, client, ground, publish
from tests.support.mosquitto import Mosquitto

QUIET: dict[str, Setting] = {f"streams.{name}.enabled": False for name in sources.STARTED}
FAST: dict[str, Setting] = {"broker.backoff.base": 0.05, "broker.backoff.cap": 0.5, "broker.backoff.link_cap": 0.5}


def agent(folder: Path, broker: Mosquitto, settings: dict[str, Setting]) -> AgentProcess:
    return AgentProcess(folder, {"device_id": "rover", "broker.urls": [broker.url], **FAST, **settings})


def record(seq: int, epoch: int = 1) -> dict[str, int]:
    return {"ts": seq, "epoch": epoch, "seq": seq}


STATUS = "SELECT status FROM device WHERE name = 'rover'"


async def test_what_the_agent_accepts_is_kept_once_and_in_order(
    mosquitto: Mosquitto, state_dir: Path, tmp_path: Path
) -> None:
    settings: dict[str, Setting] = {
        **{f"streams.{name}.interval": 0.1 for name in sources.STARTED},
        "streams.imu.batch": 10,
        "streams.imu.batch_for": 0.05,
        "outbox.compress": True,
    }
    async with GroundProcess(mosquitto.url, tmp_path / "g.db") as other:
        async with agent(state_dir, mosquitto, settings) as robot:
            await robot.wait_for_line("link up")
            async with AgentSocket(robot.socket) as local:
                for number in range(500):
                    await local.put("imu", n=number)
                    await local.put("event/door", n=number)
                await local.answers()
            await other.until(lambda g: '"online"' in (g.one(STATUS) or ""))
            robot.sigterm()
            assert await robot.wait() == 0
        await other.until(lambda g: '"offline"' in g.one(STATUS))
        accepted = outbox_file.accepted(state_dir / "outbox.db")
        expected = sorted((name, 1, seq) for name, count in accepted.items() for seq in range(1, count + 1))
        await other.until(lambda g: g.records() == expected)
        assert accepted["imu"] == accepted["event/door"] == 500
        shown = await ground("devices", "--db", other.db, "--json")
    device = json.loads(shown.out[0])
    assert (device["name"], device["status"]["status"]) == ("rover", "offline")
    assert all(stream["missing"] == stream["conflicts"] == 0 for stream in device["streams"])
    assert not [line for line in other.lines if "left out" in line]


async def test_counts_stay_exact_though_it_is_killed_midway_while_the_agent_streams(
    mosquitto: Mosquitto, state_dir: Path, tmp_path: Path
) -> None:
    settings: dict[str, Setting] = {**QUIET, "outbox.commit_interval": 0.05, "outbox.fresh_for": 0.2}
    async with (
        GroundProcess(mosquitto.url, tmp_path / "g.db") as other,
        agent(state_dir, mosquitto, settings) as robot,
    ):
        await robot.wait_for_line("link up")
        sent = 0
        for kill in range(3):
            async with AgentSocket(robot.socket) as local:
                for number in range(2_000):
                    await local.put("imu", n=number)
                    if number == 1_000:
                        before = len(other.records())
                        await other.until(lambda g, before=before: len(g.records()) > before)  # type: ignore[misc]
                        other.child.signal(signal.SIGKILL)
                        await other.child.wait()
                await local.answers()
                sent += 2_000
            await other.start()
            await other.until(lambda g, sent=sent: len(g.records()) == sent)  # type: ignore[misc]
            assert other.records() == [("imu", 1, seq) for seq in range(1, sent + 1)], kill
        assert other.one("SELECT sum(records) FROM stream") == sent
        assert other.one("SELECT count(*) FROM received") == 1


async def test_two_that_share_the_work_have_everything_together_and_nothing_twice(
    mosquitto: Mosquitto, state_dir: Path, tmp_path: Path
) -> None:
    async with (
        GroundProcess(mosquitto.url, tmp_path / "a.db", "--share", "g") as one,
        GroundProcess(mosquitto.url, tmp_path / "b.db", "--share", "g") as two,
        agent(state_dir, mosquitto, QUIET) as robot,
    ):
        await robot.wait_for_line("link up")
        async with AgentSocket(robot.socket) as local:
            for number in range(2_000):
                await local.put("imu", n=number)
            await local.answers()
        await one.until(lambda _: {*one.records(), *two.records()} == {("imu", 1, seq) for seq in range(1, 2_001)})
        for each in (one, two):
            assert len(each.records()) == each.one("SELECT sum(records) FROM stream") > 0
            await each.until(lambda g: '"online"' in (g.one(STATUS) or ""))


async def test_two_that_share_a_file_as_well_have_one_whole_view(mosquitto: Mosquitto, tmp_path: Path) -> None:
    db = tmp_path / "g.db"
    async with (
        GroundProcess(mosquitto.url, db, "--share", "g", "--client-id", "one") as one,
        GroundProcess(mosquitto.url, db, "--share", "g", "--client-id", "two") as two,
    ):
        await publish(mosquitto.port, *[("device/rover/telemetry/imu", record(seq)) for seq in range(1, 501)])
        await one.until(lambda g: len(g.records()) == 500)
        assert one.one("SELECT group_concat(first || '-' || last) FROM received") == "1-500"
        for each in (one, two):
            each.child.signal(signal.SIGTERM)
            assert await each.child.wait() == 0


async def queue(broker: Mosquitto, count: int) -> None:
    """Have this many records wait for a session that is away."""
    async with client(broker.port) as session:
        for start in range(0, count, 500):
            records = [json.dumps(record(seq)).encode() for seq in range(start + 1, start + 501)]
            answers = [session.submit(Message(topic="device/rover/telemetry/imu", payload=body)) for body in records]
            assert max(await asyncio.gather(*answers)) < 0x80


async def stop(other: GroundProcess) -> None:
    other.child.signal(signal.SIGTERM)
    assert await other.child.wait() == 0


async def test_more_than_receive_maximum_that_waited_comes_over_one_link(mosquitto: Mosquitto, tmp_path: Path) -> None:
    # mosquitto 2.0.11 sends Receive Maximum anew for each PUBACK while it has a backlog.
    async with GroundProcess(mosquitto.url, tmp_path / "g.db") as other:
        await stop(other)
        await queue(mosquitto, 20_000)
        await other.start()
        await other.until(lambda g: len(g.records()) == 20_000)
        assert not [line for line in other.lines if "link down" in line]


async def test_what_a_stop_midway_has_stored_does_not_come_again(mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with GroundProcess(mosquitto.url, tmp_path / "g.db") as other:
        await stop(other)
        await queue(mosquitto, 20_000)
        await other.start()
        await other.until(lambda g: len(g.records()) > 100)
        await stop(other)
        assert 100 < len(other.records()) < 20_000
        await other.start()
        await other.until(lambda g: len(g.records()) == 20_000)
        assert other.one("SELECT doubles FROM stream") == 0


async def test_a_session_that_the_broker_lost_is_subscribed_again(mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with GroundProcess(mosquitto.url, tmp_path / "g.db") as other:
        await publish(mosquitto.port, ("device/rover/telemetry/imu", record(1)))
        await other.until(lambda g: len(g.records()) == 1)
        await mosquitto.kill()
        mosquitto.database.unlink(missing_ok=True)
        await mosquitto.restart()
        await other.child.bell.until(
            lambda: sum("receiving what" in line for line in other.lines) == 2, within=30, story=other.child.story
        )
        assert sum("subscribed to" in line for line in other.lines) == 2
        await publish(mosquitto.port, ("device/rover/telemetry/imu", record(2)))
        await other.until(lambda g: len(g.records()) == 2)


async def test_a_session_that_is_there_is_not_subscribed_again(mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with GroundProcess(mosquitto.url, tmp_path / "g.db") as other:
        other.child.signal(signal.SIGTERM)
        assert await other.child.wait() == 0
        await publish(mosquitto.port, ("device/rover/telemetry/imu", record(1)))
        await other.start()
        await other.until(lambda g: len(g.records()) == 1)
        assert not [line for line in other.lines if "subscribed to" in line]


async def test_what_the_broker_kept_is_no_sign_of_life(mosquitto: Mosquitto, tmp_path: Path) -> None:
    seen = "SELECT seen_ts FROM device WHERE name = 'rover'"
    status = b'{"status":"online","epoch":1,"connection":1}'
    async with client(mosquitto.port) as session:
        await session.publish(Message(topic="device/rover/status", payload=status, retain=True))
    async with GroundProcess(mosquitto.url, tmp_path / "g.db") as other:
        await other.until(lambda g: g.one(STATUS) is not None)
        assert other.one(seen) is None
        await publish(mosquitto.port, ("device/rover/telemetry/imu", record(1)))
        await other.until(lambda g: g.one(seen) is not None)


BAD = (
    b"", b"{", b"\xff\xfe", b"[]"[:1], b"null", b"7", b'"x"', b"{}", b"[{}]", b"[[[]]]", b"[" * 100_000,
    b'{"ts":1,"epoch":1,"seq":1e3}', b'{"ts":1,"epoch":1,"seq":' + b"9" * 5_000 + b"}", b'{"ts":1,"epoch":-1,"seq":1}',
    b'{"status":[],"epoch":1,"connection":1}', b'{"version":"1"}', b'{"status":"failed","id":{}', b"\0" * 1_000,
    zlib.compress(b"[" * 100_000), zlib.compress(b" " * 50_000_000), zlib.compress(b"[]")[:-2],
)  # fmt: skip
EVERYWHERE = ("telemetry/imu", "telemetry/imu/backfill", "telemetry/imu/backfill.z", "telemetry/imu/x/y", "event/door",
              "status", "state", "loss", "result/dock", "telemetry/not a name")  # fmt: skip


async def test_nonsense_on_every_topic_costs_a_line_each(mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with GroundProcess(mosquitto.url, tmp_path / "g.db") as other:
        nonsense = [(f"device/rover/{below}", body) for below in EVERYWHERE for body in BAD]
        await publish(mosquitto.port, *nonsense, ("device/rover/telemetry/imu", record(1)))
        await other.until(lambda g: g.records() == [("imu", 1, 1)])
        odd = [line for line in other.lines if "left out" in line]
        assert len(odd) == len(nonsense)
        assert not [line for line in other.lines if "Traceback" in line or "link down" in line]
        assert peak_kib(other.child.pid) < 300_000


def peak_kib(pid: int) -> int:
    """The most memory that a process has had (VmHWM, proc_pid_status(5))."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


# Those that ask.


async def test_a_device_that_asks_is_told_the_desired_state_and_what_was_received(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    async with (
        GroundProcess(mosquitto.url, tmp_path / "g.db") as other,
        client(mosquitto.port, "device/rover/desired", client_id="rover") as rover,
    ):

        async def told() -> Inbound:
            async with asyncio.timeout(10):
                message = await rover.inbound.get()
            assert isinstance(message, Inbound)
            rover.acknowledge(message)
            return message

        async def ask(**body: object) -> dict[str, object]:
            request = Message(
                topic="device/rover/get_state",
                payload=json.dumps({"epoch": 1, "connection": 1, "from": "rover", **body}).encode(),
                response_topic="device/rover/desired",
                correlation_data=b"\x00\xff",
            )
            assert await rover.publish(request) < 0x80
            message = await told()
            assert message.correlation_data == b"\x00\xff"
            answer: dict[str, object] = json.loads(message.payload)
            return answer

        records = [record(1), record(2), record(5)]
        await rover.publish(Message(topic="device/rover/telemetry/imu", payload=json.dumps(records).encode()))
        received = {"imu": [[1, 1, 2], [1, 5, 5]]}
        assert await ask(desired_version=0, sent={"imu": [1, 5]}) == {"received": received}
        ended = await ground("set", "rover", "a.b=1", "c=x", "--broker", mosquitto.url, "--db", other.db)
        assert (ended.returncode, ended.err) == (0, [])
        push = await told()
        assert (push.retain, push.correlation_data) == (False, None)
        desired = {"version": 1, "desired": {"a": {"b": 1}, "c": "x"}}
        assert json.loads(push.payload) == json.loads(ended.out[0]) == desired
        assert await ask(desired_version=0) == {**desired, "received": received}
        assert await ask(desired_version=1) == {"received": received}
        ended = await ground("set", "rover", "c=null", "--retain", "--broker", mosquitto.url, "--db", other.db)
        assert json.loads((await told()).payload) == {"version": 2, "desired": {"a": {"b": 1}}}
        async with client(mosquitto.port, "device/rover/desired", client_id="late") as late, asyncio.timeout(10):
            kept = await late.inbound.get()
            assert isinstance(kept, Inbound)
            assert kept.retain


async def test_requests_that_wait_at_a_stop_are_answered_before_it_leaves(mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with (
        GroundProcess(mosquitto.url, tmp_path / "g.db") as other,
        client(mosquitto.port, "device/+/desired") as robots,
    ):
        for number in range(200):
            await robots.publish(Message(topic=f"device/r{number}/get_state", payload=b"{}"))
        other.child.signal(signal.SIGTERM)
        assert await other.child.wait() == 0
        await other.start()
        topics = set()
        async with asyncio.timeout(10):
            while len(topics) < 200:
                message = await robots.inbound.get()
                assert isinstance(message, Inbound)
                robots.acknowledge(message)
                topics.add(message.topic)
