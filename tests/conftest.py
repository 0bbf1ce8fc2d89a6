import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.mosquitto import Mosquitto
from tests.support.scripted import ScriptedBroker


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("root"):
        if os.geteuid() != 0:
            reason = marker.kwargs.get("reason") or next(iter(marker.args), "")
            pytest.skip(f"needs root: {reason}" if reason else "needs root")


@pytest.fixture(autouse=True)
def no_task_is_left(request: pytest.FixtureRequest) -> None:
    """First of all fixtures, so that the others have ended when it looks."""
    if request.node.get_closest_marker("asyncio") is not None:
        request.getfixturevalue("_tasks_at_the_end")


@pytest.fixture
async def _tasks_at_the_end() -> AsyncIterator[None]:
    yield
    # A task that has ended may still have to be told so.
    await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    if left:
        pytest.fail(f"tasks are left: {sorted(map(repr, left))}", pytrace=False)


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """An empty folder for what the agent keeps."""
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


@pytest.fixture
async def mosquitto(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    """A real broker that runs."""
    async with Mosquitto(tmp_path / "mosquitto") as broker:
        yield broker


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedBroker]:
    """A scripted broker that runs, and is honest until it is told otherwise."""
    async with ScriptedBroker() as broker:
        yield broker
