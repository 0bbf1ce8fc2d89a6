"""The other side against a scripted broker: when it acknowledges, and what it subscribes to."""

import json
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.connection import Connection
from tests.support.ground_process import GroundProcess
from tests.support.packets import Packet, Puback, Subscribe
from tests.support.script import Script
from tests.support.scripted import ScriptedBroker

IMU = "device/rover/telemetry/imu"


class Seen:
    """What the broker receives beside PUBLISH."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.subscribed: list[Subscribe] = []

    def __call__(self, _connection: Connection, packet: Packet) -> None:
        if isinstance(packet, Puback):
            self.acknowledged.append(packet.packet_id)
        elif isinstance(packet, Subscribe):
            self.subscribed.append(packet)


def record(seq: int) -> bytes:
    return json.dumps({"ts": seq, "epoch": 1, "seq": seq}).encode()


async def test_it_acknowledges_after_the_commit_and_in_order(scripted: ScriptedBroker, tmp_path: Path) -> None:
    seen = Seen()
    scripted.default = Script(on_packet=seen)
    async with GroundProcess(scripted.url, tmp_path / "g.db") as other:
        with closing(sqlite3.connect(other.db, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")  # nobody else can commit now
            sent = [scripted.deliver(IMU, record(seq)) for seq in range(1, 51)]
            with pytest.raises(TimeoutError):
                await scripted.wait_for(lambda: seen.acknowledged, timeout=1)
            database.execute("COMMIT")
        await scripted.wait_for(lambda: len(seen.acknowledged) == 50)
        assert seen.acknowledged == sent
        assert len(other.records()) == 50


async def test_what_was_not_committed_when_it_was_killed_comes_again(scripted: ScriptedBroker, tmp_path: Path) -> None:
    seen = Seen()
    scripted.default = Script(on_packet=seen)
    async with GroundProcess(scripted.url, tmp_path / "g.db") as other:
        with closing(sqlite3.connect(other.db, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            for seq in range(1, 51):
                scripted.deliver(IMU, record(seq))
            other.child.signal(signal.SIGKILL)
            await other.child.wait()
        assert seen.acknowledged == []
        scripted.expect_client_memory_lost()
        await other.start()
        await other.until(lambda g: len(g.records()) == 50)
        await scripted.wait_for(lambda: len(seen.acknowledged) == 50)
        assert len(seen.subscribed) == 1
    assert scripted.violations == []


async def test_it_keeps_its_session_and_asks_for_what_it_needs(scripted: ScriptedBroker, tmp_path: Path) -> None:
    seen = Seen()
    scripted.default = Script(on_packet=seen)
    async with GroundProcess(scripted.url, tmp_path / "g.db", "--share", "g") as other:
        (subscribe,) = seen.subscribed
        connect = scripted.connection.connect
        assert connect is not None
        assert (connect.clean_start, connect.will) == (False, None)
        assert connect.properties["session_expiry_interval"] == 7 * 86_400
        assert connect.properties["receive_maximum"] == 1_000
        assert {item.topic for item in subscribe.filters} == {
            "device/+/status",
            "device/+/state",
            *(f"$share/g/device/+/{below}" for below in ("telemetry/#", "event/+", "health", "loss", "result/+")),
            "$share/g/device/+/get_state",
        }
        assert {(item.qos, item.no_local) for item in subscribe.filters} == {(1, False)}
        other.child.signal(signal.SIGTERM)
        assert await other.child.wait() == 0
        (goodbye,) = scripted.disconnects
        assert "session_expiry_interval" not in goodbye.properties
        scripted.lose_sessions()
        await other.start()
        assert scripted.connection.connect is not None
        assert scripted.connection.connect.client_id == connect.client_id
        assert len(seen.subscribed) == 2
    assert scripted.violations == []


async def test_a_refused_subscription_is_told_and_the_others_work(scripted: ScriptedBroker, tmp_path: Path) -> None:
    scripted.default = Script(grant=lambda item: 0x87 if item.topic.endswith("/loss") else item.qos)
    refused = "refuses subscriptions.* device/./loss: 0x87 not authorized"
    async with GroundProcess(scripted.url, tmp_path / "g.db", ready=refused) as other:
        scripted.deliver(IMU, record(1))
        await other.until(lambda g: len(g.records()) == 1)
