"""The demo's agent: the real one, in a process of its own, as systemd would run it."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import agent

_STOP_WITHIN = 20.0
_ANSWER_WITHIN = 2.0


@asynccontextmanager
async def running(config: Path, log: list[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `roamd run --config CONFIG` and end it with SIGTERM; its log lines go to `log`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "agent", "run", "--config", str(config)),
        cwd=Path(agent.__file__).parent.parent,
        env={name: value for name, value in os.environ.items() if not name.startswith("ROAMD_")},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(_read(process.stderr, log))
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(_STOP_WITHIN):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
            await asyncio.wait([reading])


async def _read(stream: asyncio.StreamReader | None, log: list[str]) -> None:
    while stream is not None and (line := await stream.readline()):
        log.append(line.decode(errors="replace").rstrip())


async def ask_status(path: Path) -> Mapping[str, Any]:
    """Return the agent's figures from its local socket; nothing where it does not answer."""
    with suppress(OSError, ValueError, TimeoutError):
        async with asyncio.timeout(_ANSWER_WITHIN):
            reader, writer = await asyncio.open_unix_connection(str(path), limit=1024 * 1024)
            try:
                writer.write(b'{"get":"status"}\n')
                answer: Mapping[str, Any] = json.loads(await reader.readline())["status"]
                return answer
            finally:
                writer.close()
    return {}
