"""`roamd ground send` and `get-state`, against a small device on a real mosquitto."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.support.child import Child
from tests.support.ground_process import GroundProcess, client, ground, perform, publish
from tests.support.mosquitto import Mosquitto
from tests.support.ports import free_port


async def send(broker: Mosquitto, *arguments: str) -> Child:
    return await ground("send", "rover", *arguments, "--broker", broker.url, "--timeout", "20s")


@pytest.mark.parametrize(
    ("replies", "code"),
    [
        ([{"status": "succeeded", "result": {"a": 1}}], 0),
        ([{"status": "accepted"}, {"status": "succeeded"}], 0),
        ([{"status": "failed", "reason": "no"}], 1),
        ([{"status": "rejected", "reason": "no"}], 1),
        ([{"status": "expired", "reason": "no"}], 1),
        ([{"status": "interrupted", "reason": "no"}], 1),
    ],
)
async def test_a_result_is_printed_and_its_status_is_the_exit_code(
    mosquitto: Mosquitto, replies: list[dict[str, object]], code: int
) -> None:
    async with client(mosquitto.port, "device/rover/cmd/+", client_id="rover") as rover, asyncio.TaskGroup() as group:
        performed = group.create_task(perform(rover, replies))
        ended = await send(mosquitto, "dock", "speed=0.5", "where=home", 'deep={"a":[1]}', "odd=NaN", "--id", "42")
        message, command = await performed
    assert ended.returncode == code
    assert [json.loads(line) for line in ended.out] == [{"id": "42", **replies[-1]}]
    assert ended.err == (["roamd: dock was accepted, and runs"] if len(replies) > 1 else [])
    assert command["args"] == {"speed": 0.5, "where": "home", "deep": {"a": [1]}, "odd": "NaN"}
    assert command["id"] == "42"
    assert isinstance(command["ts"], int)
    assert (message.topic, message.retain, message.correlation_data) == ("device/rover/cmd/dock", False, b"42")
    assert message.response_topic == "device/rover/result/dock"
    assert message.expiry in {19, 20}


async def test_the_result_is_kept_by_who_receives(mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with (
        GroundProcess(mosquitto.url, tmp_path / "g.db") as other,
        client(mosquitto.port, "device/rover/cmd/+", client_id="rover") as rover,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(perform(rover, [{"status": "accepted"}, {"status": "succeeded"}]))
        assert (await send(mosquitto, "dock", "--id", "a")).returncode == 0
        await other.until(lambda g: g.one("SELECT status FROM result WHERE key = 'a'") == "succeeded")
        assert other.one("SELECT count(*) FROM result") == 1


async def test_other_results_are_not_taken_for_this_one(mosquitto: Mosquitto) -> None:
    strays = (b'{"id":"b","status":"failed"}', b'{"id":null,"status":"failed"}', b"nonsense", b"[]", b"[" * 100_000)
    async with client(mosquitto.port, "device/rover/cmd/+", client_id="rover") as rover, asyncio.TaskGroup() as group:
        sending = group.create_task(send(mosquitto, "dock", "--id", "a"))
        rover.inbound.put_nowait(await rover.inbound.get())  # it listens, since it has asked
        await publish(mosquitto.port, *[("device/rover/result/dock", body) for body in strays])
        await perform(rover, [{"status": "succeeded"}])
    ended = sending.result()
    assert (ended.returncode, json.loads(ended.out[0])["status"]) == (0, "succeeded")


async def test_get_state_prints_the_document(mosquitto: Mosquitto) -> None:
    document = {"version": 3, "reported": {"mode": "idle"}}
    async with client(mosquitto.port, "device/rover/cmd/+", client_id="rover") as rover:
        for reply in ({"status": "succeeded", "result": document}, document):
            async with asyncio.TaskGroup() as group:
                performed = group.create_task(perform(rover, [reply]))
                ended = await ground("get-state", "rover", "--broker", mosquitto.url)
            assert ended.returncode == 0
            assert json.loads("\n".join(ended.out)).items() >= document.items()
            assert (await performed)[0].topic == "device/rover/cmd/get_state"
        async with asyncio.TaskGroup() as group:
            group.create_task(perform(rover, [{"status": "failed", "reason": "no"}]))
            assert (await ground("get-state", "rover", "--broker", mosquitto.url)).returncode == 1


async def test_no_answer_nobody_there_and_no_broker_exit_69(mosquitto: Mosquitto, tmp_path: Path) -> None:
    ended = await send(mosquitto, "dock")
    assert (ended.returncode, ended.err) == (69, ["roamd: no device has subscribed to device/rover/cmd"])
    async with client(mosquitto.port, "device/rover/cmd/+", client_id="rover"):
        ended = await ground("send", "rover", "dock", "--broker", mosquitto.url, "--timeout", "1s", "--id", "a")
        assert (ended.returncode, ended.err) == (69, ["roamd: no result of dock (id a) within 1 s"])
    nowhere = f"mqtt://127.0.0.1:{free_port()}"
    db = tmp_path / "g.db"
    for arguments in (("send", "rover", "dock"), ("get-state", "rover"), ("set", "rover", "a=1", "--db", str(db))):
        ended = await ground(*arguments, "--broker", nowhere)
        assert ended.returncode == 69
        assert "cannot connect" in ended.err[0]
    assert "version 1 is kept" in ended.err[0]
