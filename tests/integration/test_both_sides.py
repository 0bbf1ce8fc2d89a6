"""The agent and the other side, with a broker between them that forgets."""

from pathlib import Path

from tests.integration.test_commands import SETTINGS
from tests.support.agent_process import AgentProcess, Setting
from tests.support.agent_socket import AgentSocket
from tests.support.ground_process import GroundProcess, ground
from tests.support.mosquitto import Mosquitto

COUNT = 1_000


def agent(folder: Path, broker: Mosquitto, **settings: Setting) -> AgentProcess:
    extra = {key.replace("__", "."): value for key, value in settings.items()}
    return AgentProcess(folder, {**SETTINGS, "broker.urls": [broker.url], "resync.timeout": 5, **extra})


async def feed(robot: AgentProcess, count: int) -> None:
    await robot.wait_for_line("link up")
    async with AgentSocket(robot.socket) as local:
        for number in range(count):
            await local.put("imu", n=number)
        await local.answers()


async def test_a_broker_that_loses_its_memory_loses_nothing_where_the_controller_confirms(
    mosquitto: Mosquitto, state_dir: Path, tmp_path: Path
) -> None:
    other = GroundProcess(mosquitto.url, tmp_path / "ground.db")
    confirmed: dict[str, Setting] = {"outbox__confirm": "controller", "resync__every": 1}
    async with other:
        # Its session stands; while it is away the broker keeps for it what comes.
        await other.child.end()
        await mosquitto.save()
        async with agent(state_dir, mosquitto, **confirmed) as robot:
            await feed(robot, COUNT)
            async with AgentSocket(robot.socket) as local:
                assert (await local.status())["streams"]["imu"]["delivered"] == 0
            await mosquitto.kill()
            mosquitto.database.unlink()
            await mosquitto.restart()
            await other.start()
            await other.until(lambda ground: len([one for one in ground.records() if one[0] == "imu"]) == COUNT)
            robot.sigterm()
            assert await robot.wait() == 0


async def test_a_person_at_the_other_side_can_ask_and_set(
    mosquitto: Mosquitto, state_dir: Path, tmp_path: Path
) -> None:
    db = tmp_path / "ground.db"
    async with GroundProcess(mosquitto.url, db) as other, agent(state_dir, mosquitto) as robot:
        await robot.wait_for_line("resynchronising with the controller: done")
        at = ("--broker", mosquitto.url)
        pong = await ground("send", "rover", "ping", *at)
        assert "succeeded" in "\n".join(pong.out)
        changed = await ground("set", "rover", "streams.cpu.interval=1", "log.level=debug", "--db", db, *at)
        assert changed.returncode == 0, changed.story()
        await other.until(lambda one: one.one("SELECT applied_version FROM device") == 1)
        state = await ground("get-state", "rover", *at)
        said = "\n".join(state.out)
        assert '"streams.cpu.interval": 1' in said or '"streams.cpu.interval":1' in said
        assert "resync.remote does not list it" in said
        robot.sigterm()
        assert await robot.wait() == 0
