"""SIGKILL at random moments: what was committed arrives, and no identity is given to two records."""

import random
from pathlib import Path
from typing import Any

import pytest

from agent import sources
from tests.support import outbox_file
from tests.support.agent_process import AgentProcess, Setting
from tests.support.agent_socket import AgentSocket
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber, records

STREAMS = ("stored", "synced", "event/bump")
LIVES = 4


class Ledger:
    """What each identity stands for; a second meaning fails the test."""

    def __init__(self) -> None:
        self._known: dict[outbox_file.Identity, dict[str, Any]] = {}

    def note(self, identity: outbox_file.Identity, record: dict[str, Any]) -> None:
        known = self._known.setdefault(identity, record)
        # `id` is put into events on their way.
        same = {key: known[key] for key in ("ts", "n")} == {key: record[key] for key in ("ts", "n")}
        assert same, f"{identity} is {known} and {record}"


async def live(robot: AgentProcess, choose: random.Random, first: int) -> tuple[list[outbox_file.Identity], int]:
    """Feed the agent until it is killed at a random moment; returns what it answered for, and the next number."""
    number = first
    async with AgentSocket(robot.socket) as local:
        for _ in range(choose.randrange(1, 12)):
            for _ in range(choose.randrange(1, 300)):
                await local.put(choose.choice(STREAMS), n=number)
                number += 1
            if choose.random() < 0.5:
                await local.answers()
        await robot.kill()
        return local.kept, number


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
async def test_what_was_committed_before_a_kill_arrives_and_no_identity_is_given_twice(
    mosquitto: Mosquitto, state_dir: Path, seed: int
) -> None:
    choose = random.Random(seed)
    settings: dict[str, Setting] = {
        "device_id": "rover",
        "broker.urls": [mosquitto.url],
        "broker.backoff.base": 0.05,
        "broker.backoff.link_cap": 0.2,
        "outbox.commit_interval": 0.05,
        "streams.synced.delivery": "synced",
        **{f"streams.{name}.enabled": False for name in sources.STARTED},
    }
    ledger = Ledger()
    answered: list[outbox_file.Identity] = []
    number = 0
    async with Subscriber(mosquitto.port) as subscriber, AgentProcess(state_dir, settings) as robot:
        await robot.wait_for_line("link up")
        # The broker is away for the robot alone: what the subscriber gets comes after the outage.
        mosquitto.freeze()
        for life in range(LIVES):
            if life:
                await robot.start()
            await robot.wait_for_line("roamd .* is up: .* epoch")
            kept, number = await live(robot, choose, number)
            answered += kept
            on_disk = outbox_file.waiting(robot.folder / "outbox.db")
            for identity, record in on_disk.items():
                ledger.note(identity, record)
            assert set(answered) <= set(on_disk), f"seed {seed}: answered, but not on the disk"
        mosquitto.thaw()
        await robot.start()
        await subscriber.wait_for(lambda got: set(on_disk) <= {row[:3] for row in records(got)})
        robot.sigterm()
        assert await robot.wait() == 0
    for row in records(subscriber.messages):
        ledger.note(row[:3], row.payload)
    assert outbox_file.waiting(state_dir / "outbox.db") == {}
    assert outbox_file.quarantined(state_dir / "outbox.db") == {}
