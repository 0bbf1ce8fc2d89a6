"""The watchdog's verdict."""

import asyncio
from dataclasses import dataclass, field

import pytest

from agent.health import Health
from agent.systemd import watchdog_within
from agent.watchdog import watch


def test_a_flow_that_rests_owes_nothing_and_one_that_works_has_to_end_in_time() -> None:
    health = Health()
    commit, link = health.pulse("commit", within=60.0), health.pulse("link", within=10.0)
    assert health.verdict(1e9) == ""
    commit.begin(100.0)
    link.begin(130.0)
    assert health.verdict(140.0) == ""
    assert health.verdict(141.0) == "link stands still for 11 s"
    assert health.verdict(161.0) == "commit stands still for 61 s; link stands still for 31 s"
    link.begin(161.0)
    commit.end()
    assert health.verdict(165.0) == ""


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [("30000000", "", 30.0), ("30000000", "1", None), ("", "", None), ("0", "", None), ("a", "", None)],
)
def test_the_watchdogs_time_is_this_processs_only(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, expected: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert watchdog_within() == expected


@dataclass
class Told:
    alive_count: int = 0
    lines: list[str] = field(default_factory=list)

    def alive(self) -> None:
        self.alive_count += 1

    def status(self, text: str) -> None:
        self.lines.append(text)


async def test_while_a_flow_stands_still_the_service_manager_is_not_told_that_all_is_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    health, told = Health(), Told()
    pulse = health.pulse("commit", within=0.0)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        watching = group.create_task(watch(health, told, within=0.003))
        while told.alive_count < 3:  # noqa: ASYNC110  it counts
            await asyncio.sleep(0.001)
        pulse.begin(0.0)
        while not told.lines:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        count = told.alive_count
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert told.alive_count == count
        assert len(told.lines) == 1
        assert told.lines[0].startswith("commit stands still for ")
        pulse.end()
        while told.alive_count == count:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        watching.cancel()
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
