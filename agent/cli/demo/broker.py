"""A mosquitto of the demo's own: on a free loopback port, with its files in a temporary folder."""

import asyncio
import os
import shutil
import signal
import socket
from contextlib import suppress
from pathlib import Path

from agent.errors import UnavailableError

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # Debian's mosquitto is not on an ordinary user's PATH
_START_WITHIN = 10.0
_TRIES = 5


class Broker:
    """Starts, kills and restarts one mosquitto on 127.0.0.1. `port` stays the same."""

    def __init__(self, folder: Path) -> None:
        self.port = 0
        self._program = _find()
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and wait until it accepts connections. Raises UnavailableError."""
        for _ in range(_TRIES):
            port = self.port or _free_port()
            if await self._try(port):
                self.port = port
                return
        log = (self._folder / "mosquitto.log").read_text(errors="replace")
        raise UnavailableError(f"mosquitto does not start; its log says:\n{log}")

    async def remember(self) -> None:
        """Make it write its sessions to its file (SIGUSR1, mosquitto(8)), so that a kill does not lose them."""
        if self._process is not None:
            self._process.send_signal(signal.SIGUSR1)
            with suppress(TimeoutError):
                async with asyncio.timeout(_START_WITHIN):
                    while not (self._folder / "mosquitto.db").exists():  # noqa: ASYNC110  another process makes it
                        await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """End it with SIGKILL, as a power cut would."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None

    async def _try(self, port: int) -> bool:
        config = self._folder / "mosquitto.conf"
        config.write_text(self._config(port), encoding="utf-8")
        with (self._folder / "mosquitto.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                self._program, "-c", str(config), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        async with asyncio.timeout(_START_WITHIN):
            while self._process.returncode is None:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return True
        return False

    def _config(self, port: int) -> str:
        lines = [
            f"listener {port} 127.0.0.1",
            "allow_anonymous true",
            "set_tcp_nodelay true",
            "max_inflight_messages 1000",
            "max_queued_messages 0",
            "persistence true",
            f"persistence_location {self._folder}/",
        ]
        if os.geteuid() == 0:
            lines.append("user root")
        return "\n".join(lines) + "\n"


def _find() -> str:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path=_SBIN)
    if program is None:
        raise UnavailableError("the demo needs the mosquitto broker: sudo apt install mosquitto")
    return program


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
