"""An SD card: each fsync takes its time, and now and then one takes very long."""

import asyncio
from pathlib import Path

from agent import sources
from tests.chaos.feeder import Feeder
from tests.chaos.ledger import Ledger
from tests.support import outbox_file
from tests.support.agent_process import AgentProcess, Setting
from tests.support.agent_socket import AgentSocket
from tests.support.scripted import ScriptedBroker
from tests.support.slow_fsync import SlowFsync
from tests.support.subscriber import records

RATE, TOGETHER, COUNT = 2_000, 20, 4_000
SETTINGS: dict[str, Setting] = {
    "device_id": "rover",
    # Longer than a busy machine keeps an acknowledgement waiting.
    "outbox.commit_interval": 5,
    "streams.synced.delivery": "synced",
    **{f"streams.{name}.enabled": False for name in sources.STARTED},
}


def agent(folder: Path, broker: ScriptedBroker, disk: SlowFsync) -> AgentProcess:
    return AgentProcess(folder, {**SETTINGS, "broker.urls": [broker.url]}, environment=disk.environment)


async def test_while_the_link_is_healthy_no_stored_record_touches_a_slow_disk(
    scripted: ScriptedBroker, tmp_path: Path, state_dir: Path
) -> None:
    disk, ledger = SlowFsync(tmp_path, milliseconds=10), Ledger()
    async with agent(state_dir, scripted, disk) as robot:
        await robot.wait_for_line("link up")
        assert disk.is_in(robot.child.pid)
        feeder = Feeder(robot.socket, ledger)
        async with AgentSocket(robot.socket) as local, feeder.connected():
            for _ in range(COUNT // TOGETHER):
                assert await feeder.hand([("imu", 50)] * TOGETHER)
                await local.status()
                await asyncio.sleep(TOGETHER / RATE)
        robot.sigterm()
        assert await robot.wait() == 0
    assert len(ledger.answered) == COUNT
    assert {row[:3] for row in records(scripted.accepted)} == set(ledger.answered)
    assert rows_ever(state_dir / "outbox.db") == 0
    assert outbox_file.accepted(state_dir / "outbox.db") == {"imu": COUNT}


async def test_a_disk_that_hangs_holds_up_only_who_waits_for_it(
    scripted: ScriptedBroker, tmp_path: Path, state_dir: Path
) -> None:
    disk, ledger = SlowFsync(tmp_path, milliseconds=0), Ledger()
    async with agent(state_dir, scripted, disk) as robot:
        await robot.wait_for_line("link up")
        patient, other = Feeder(robot.socket, ledger), Feeder(robot.socket, ledger)
        disk.hold()
        async with patient.connected():
            await patient.hand([("synced", 50)])
            async with AgentSocket(robot.socket) as local:
                await local.status()
            async with other.connected():
                await other.hand([("imu", 50)] * 100)
            assert {stream for stream, *_ in ledger.answered} == {"imu"}
            disk.release()
        await scripted.wait_for(lambda: len(records(scripted.accepted)) == 101)
    assert len(ledger.answered) == 101


def rows_ever(file: Path) -> int:
    """How many rows the outbox has ever had."""
    with outbox_file.opened(file) as database:
        [(rows,)] = database.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'outbox'")
    return int(rows)
