"""The agent as a process before a real broker that speaks TLS."""

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from agent import sources
from tests.support import outbox_file
from tests.support.agent_process import AgentProcess, Setting
from tests.support.agent_socket import AgentSocket
from tests.support.authority import Authority, Pair
from tests.support.mosquitto import Mosquitto
from tests.support.ports import free_port
from tests.support.subscriber import Subscriber, records

QUICK: dict[str, Setting] = {
    "device_id": "rover",
    "broker.backoff.base": 0.05,
    "broker.backoff.cap": 0.5,
    "broker.backoff.link_cap": 0.5,
    "outbox.commit_interval": 0.05,
    **{f"streams.{name}.enabled": False for name in sources.STARTED},
}


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "ours")


@pytest.fixture(scope="module")
def server(ours: Authority) -> Pair:
    return ours.pair("server")


def credentials(folder: Path, authority: Authority, client: Pair) -> Path:
    """What systemd's LoadCredential= makes."""
    folder.mkdir()
    shutil.copy(authority.cert, folder / "ca.pem")
    shutil.copy(client.cert, folder / "client.pem")
    shutil.copy(client.key, folder / "client.key")
    return folder


def wanting_certificates(authority: Authority, server: Pair) -> list[str]:
    return [f"certfile {server.cert}", f"keyfile {server.key}", f"cafile {authority.cert}",
            "require_certificate true", "use_identity_as_username true"]  # fmt: skip


def agent(folder: Path, broker: Mosquitto, settings: dict[str, Setting], **environment: str) -> AgentProcess:
    urls: dict[str, Setting] = {"broker.urls": f"mqtts://localhost:{broker.port}"}
    return AgentProcess(folder, {**QUICK, **urls, **settings}, environment=environment)


async def feed(robot: AgentProcess, numbers: range) -> None:
    async with AgentSocket(robot.socket) as local:
        for number in numbers:
            await local.put("imu", n=number)
        await local.answers()
        assert local.errors == []


async def test_records_arrive_over_tls_though_the_broker_restarts(
    ours: Authority, server: Pair, state_dir: Path, tmp_path: Path
) -> None:
    plain = free_port()
    folder = credentials(tmp_path / "credentials", ours, ours.pair("rover-7"))
    async with Mosquitto(extra=[*wanting_certificates(ours, server), f"listener {plain} 127.0.0.1"]) as broker:
        async with Subscriber(plain) as subscriber:
            async with agent(state_dir, broker, {}, CREDENTIALS_DIRECTORY=str(folder)) as robot:
                await robot.wait_for_line("link up")
                await feed(robot, range(1, 301))
                await broker.stop()
                await robot.wait_for_line("link down")
                await feed(robot, range(301, 601))
                await broker.restart()
                await robot.wait_for_line("link up, connection (?!1 )")
                assert broker.matching("as rover .*u'rover-7'")
                await subscriber.wait_subscribed(2)
                await feed(robot, range(601, 901))
                await subscriber.wait_for(lambda got: len({row.seq for row in records(got)}) == 900)
                robot.sigterm()
                assert await robot.wait() == 0
            await subscriber.wait_for(lambda got: got[-1].topic == "device/rover/status")
            assert subscriber.messages[-1].json()["status"] == "offline"
        assert {row.payload["n"] for row in records(subscriber.messages)} == set(range(1, 901))
    assert outbox_file.waiting(state_dir / "outbox.db") == {}


async def test_certificates_that_were_renewed_are_used_at_the_next_connection_without_a_restart(
    ours: Authority, server: Pair, state_dir: Path, tmp_path: Path
) -> None:
    first, second = ours.pair("first"), ours.pair("second")
    cert, key = shutil.copy(first.cert, tmp_path / "client.pem"), shutil.copy(first.key, tmp_path / "client.key")
    settings: dict[str, Setting] = {"broker.ca_file": ours.cert, "broker.cert_file": cert, "broker.key_file": key}
    async with (
        Mosquitto(extra=wanting_certificates(ours, server)) as broker,
        agent(state_dir, broker, settings) as robot,
    ):
        await robot.wait_for_line("link up")
        assert broker.matching("as rover .*u'first'")
        shutil.copy(second.cert, cert)
        shutil.copy(second.key, key)
        await broker.restart()
        await robot.wait_for_line("the certificates were read again; the next connection uses them")
        await robot.wait_for_line("link up, connection (?!1 )")
        assert broker.matching("as rover .*u'second'")


async def test_a_file_that_is_bad_at_a_reload_changes_nothing_and_is_told(
    ours: Authority, server: Pair, state_dir: Path, tmp_path: Path
) -> None:
    ca_file = shutil.copy(ours.cert, tmp_path / "ca.pem")
    async with (
        Mosquitto(extra=[f"certfile {server.cert}", f"keyfile {server.key}"]) as broker,
        agent(state_dir, broker, {"broker.ca_file": ca_file}) as robot,
    ):
        await robot.wait_for_line("link up")
        ca_file.write_text("rubbish")
        robot.sighup()
        await robot.wait_for_line(
            "WARNING .*cannot use broker.ca_file .*; the certificates that were read before stay in use"
        )
        await broker.restart()
        await robot.wait_for_line("link up, connection (?!1 )")
        assert sum("cannot use broker.ca_file" in line for line in robot.lines) == 1
        shutil.copy(ours.cert, ca_file)
        robot.sighup()
        await robot.wait_for_line("the certificates were read again")


async def test_files_that_cannot_be_used_end_the_start_with_exit_78(ours: Authority, state_dir: Path) -> None:
    settings: dict[str, Setting] = {
        **QUICK, "broker.urls": "mqtts://localhost", "broker.cert_file": ours.cert, "broker.ca_file": ours.cert,
    }  # fmt: skip
    async with AgentProcess(state_dir, settings) as robot:
        assert await robot.wait() == 78
        assert robot.lines[0].startswith(f"roamd: cannot use broker.cert_file {ours.cert}: there is no private key")
    assert not (state_dir / "outbox.db").exists()


async def test_an_expired_certificate_does_not_keep_the_agent_from_running(
    ours: Authority, server: Pair, state_dir: Path
) -> None:
    old = ours.pair("old", starts=timedelta(days=-9), ends=timedelta(days=-1))
    settings: dict[str, Setting] = {
        "broker.ca_file": ours.cert, "broker.cert_file": old.cert, "broker.key_file": old.key,
    }  # fmt: skip
    async with (
        Mosquitto(extra=wanting_certificates(ours, server)) as broker,
        agent(state_dir, broker, settings) as robot,
    ):
        await robot.wait_for_line("link down")
        await feed(robot, range(3))
        assert sum("the client certificate (old) has expired on" in line for line in robot.lines) == 1
        robot.sigterm()
        assert await robot.wait() == 0
    assert len(outbox_file.waiting(state_dir / "outbox.db")) == 3


async def test_certificates_without_mqtts_are_told_of(mosquitto: Mosquitto, ours: Authority, state_dir: Path) -> None:
    settings: dict[str, Setting] = {**QUICK, "broker.urls": mosquitto.url, "broker.ca_file": ours.cert}
    async with AgentProcess(state_dir, settings) as robot:
        await robot.wait_for_line("WARNING .*nothing is encrypted: broker.urls has mqtt://, not mqtts://")
        await robot.wait_for_line("link up")
