"""The local socket, with a real outbox behind it."""

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent import ingest
from agent.commands.local import Local
from agent.errors import StorageError
from agent.model import Delivery, Stream
from agent.store.committer import commit
from agent.store.database import Database
from agent.store.outbox import Outbox

MAX_LINE = 64 * 1024


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *lines: dict[str, Any] | bytes) -> None:
        for line in lines:
            self.writer.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")

    async def answer(self) -> dict[str, Any]:
        async with asyncio.timeout(30):
            line = await self.reader.readline()
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def rest(self) -> list[dict[str, Any]]:
        """Close the writing side and return every answer that still comes."""
        self.writer.write_eof()
        async with asyncio.timeout(30):
            return [json.loads(line) for line in (await self.reader.read()).splitlines()]


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_unix_connection(str(path), limit=64 * 1024 * 1024)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[tuple[Path, Outbox]]:
    path = folder / "roamd.sock"
    until = asyncio.Event()
    async with Database.open(folder / "outbox.db") as database:
        outbox = Outbox(
            database,
            device_id="rover",
            epoch=await database.begin_epoch(boot_id="boot", started_ts=1),
            last_row=0,
            counts=[],
            streams=[
                Stream(name="log", delivery=Delivery.SYNCED),
                Stream(name="view", delivery=Delivery.LIVE, qos=0),
            ],
            commit_interval=0.02,
            fresh_for=5.0,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(commit(outbox, database, until=until))
            programs = Local(lambda _name: False, changed=lambda: None)
            figures = {"epoch": outbox.epoch}
            async with ingest.listening(path, outbox, programs, figures=lambda: figures, max_line=MAX_LINE):
                yield path, outbox
            until.set()
            outbox.stir.set()


async def test_a_line_with_a_ref_is_answered_once_its_record_is_on_the_disk(tmp_path: Path) -> None:
    async with served(tmp_path) as (path, outbox), connected(path) as client:
        client.send({"stream": "log", "fields": {"n": 1}, "ref": 7})
        assert await client.answer() == {"ref": 7, "ok": True, "epoch": 1, "seq": 1}
        assert sum(channel.unwritten for channel in outbox.channels()) == 0
        assert outbox.waiting == 1


async def test_stored_and_live_lines_and_events_are_answered_too(tmp_path: Path) -> None:
    async with served(tmp_path) as (path, _), connected(path) as client:
        client.send(
            {"stream": "imu", "fields": {"n": 1}, "ref": "stored"},
            {"stream": "view", "fields": {"n": 1}, "ref": "live"},
            {"event": "door_opened", "ref": "event"},
        )
        answers = await client.rest()
    assert {answer["ref"] for answer in answers} == {"stored", "live", "event"}
    assert all(answer["ok"] for answer in answers)


async def test_lines_without_a_ref_are_answered_only_where_they_are_wrong(tmp_path: Path) -> None:
    async with served(tmp_path) as (path, outbox), connected(path) as client:
        client.send({"stream": "imu"}, b"nonsense\n", b"\n", {"stream": "imu"})
        (answer,) = await client.rest()
        assert answer["ok"] is False
        assert answer["error"].startswith("not JSON")
        assert outbox.waiting == 2


async def test_a_line_that_is_too_long_costs_nothing_else(tmp_path: Path) -> None:
    async with served(tmp_path) as (path, outbox), connected(path) as client:
        client.send({"stream": "imu", "ref": 1}, b"x" * (10 * 1024 * 1024) + b"\n", {"stream": "imu", "ref": 2})
        answers = await client.rest()
        assert [answer.get("ref") for answer in answers if answer["ok"]] == [1, 2]
        (refused,) = [answer for answer in answers if not answer["ok"]]
        assert "longer than 65536 bytes" in refused["error"]
        assert outbox.waiting == 2


async def test_the_last_line_needs_no_newline(tmp_path: Path) -> None:
    async with served(tmp_path) as (path, _), connected(path) as client:
        client.send(b'{"stream":"imu","ref":1}')
        assert [answer["ref"] for answer in await client.rest()] == [1]


async def test_status_is_answered_with_the_figures(tmp_path: Path) -> None:
    async with served(tmp_path) as (path, _), connected(path) as client:
        client.send({"get": "status", "ref": 2})
        assert await client.answer() == {"ref": 2, "ok": True, "status": {"epoch": 1}}


async def test_a_burst_is_accepted_whole_and_in_order(tmp_path: Path) -> None:
    async with served(tmp_path) as (path, outbox), connected(path) as client:
        client.send(b"".join(b'{"stream":"imu","fields":{"n":%d},"ref":%d}\n' % (n, n) for n in range(1, 20_001)))
        answers = await client.rest()
        assert sorted(answer["ref"] for answer in answers) == list(range(1, 20_001))
        assert all(answer["seq"] == answer["ref"] for answer in answers)
        assert outbox.waiting == 20_000


async def test_a_client_that_never_reads_its_answers_holds_up_nobody_else(tmp_path: Path) -> None:
    async with served(tmp_path) as (path, _), connected(path) as deaf, connected(path) as client:
        deaf.send(b'{"get":"status"}\n' * 200_000)
        client.send({"stream": "log", "ref": 1})
        assert (await client.answer())["ok"] is True


async def test_a_client_that_leaves_in_the_middle_of_a_line_costs_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as (path, _), connected(path) as client:
        async with connected(path) as rude:
            rude.send(b'{"stream":"im')
            rude.writer.transport.abort()
        client.send({"stream": "log", "ref": 1})
        assert (await client.answer())["ok"] is True


async def test_the_socket_is_for_its_group_only_and_goes_with_the_agent(tmp_path: Path) -> None:
    async with served(tmp_path) as (path, _):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert not path.exists()


async def test_a_socket_left_by_a_killed_agent_is_taken_over(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "roamd.sock"))
    async with served(tmp_path) as (path, _), connected(path) as client:
        client.send({"get": "status", "ref": 1})
        assert (await client.answer())["ok"] is True


async def test_a_socket_that_another_process_listens_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "roamd.sock"
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(path))
        live.listen()
        with pytest.raises(StorageError, match="another process listens there"):
            ingest._listener(path)
        assert path.exists()


def test_a_path_that_is_too_long_for_a_socket_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot listen on .* set ingest\.socket"):
        ingest._listener(tmp_path / ("a" * 200))


def test_the_umask_is_what_it_was(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        listener, _ = ingest._listener(tmp_path / "s")
        listener.close()
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
