"""A local program on the agent's socket (contract, section 8)."""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class AgentSocket:
    """Sends lines to the agent's socket, and gathers what it answers.

    `kept` holds (stream, epoch, seq) of each record that was answered with `ok`; `errors` the answers without.
    """

    def __init__(self, path: Path) -> None:
        self.kept: list[tuple[str, int, int]] = []
        self.errors: list[dict[str, Any]] = []
        self._path = path
        self._refs: dict[int, str] = {}
        self._next = 0
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_unix_connection(str(self._path), limit=4 * 1024 * 1024)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._writer is not None
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def put(self, stream: str, **fields: object) -> None:
        """Send one sample of a stream, or of an event named `event/NAME`; `answers` waits for what comes of it."""
        self._next += 1
        self._refs[self._next] = stream
        _, event, name = stream.rpartition("event/")
        await self._send({"event" if event else "stream": name, "fields": fields, "ref": self._next})

    async def answers(self, *, within: float = 30.0) -> None:
        """Wait until everything that was sent has got its answer. Raises ConnectionError when the agent ends first."""
        async with asyncio.timeout(within):
            while self._refs:
                answer = await self._line()
                stream = self._refs.pop(answer.get("ref") or 0, "")
                if answer["ok"]:
                    self.kept.append((stream, answer["epoch"], answer["seq"]))
                else:
                    self.errors.append(answer)

    async def status(self, *, within: float = 30.0) -> dict[str, Any]:
        """Ask for the agent's figures."""
        async with asyncio.timeout(within):
            await self._send({"get": "status", "ref": "status"})
            answer = await self._line()
        status: dict[str, Any] = answer["status"]
        return status

    async def _send(self, line: Mapping[str, object]) -> None:
        assert self._writer is not None
        self._writer.write(json.dumps(line).encode() + b"\n")
        await self._writer.drain()

    async def _line(self) -> dict[str, Any]:
        assert self._reader is not None
        line = await self._reader.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the agent closed the socket")
        answer: dict[str, Any] = json.loads(line)
        return answer
