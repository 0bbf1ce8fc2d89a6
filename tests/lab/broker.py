"""The broker of the lab, which keeps nothing when it ends, and the witness beside it."""

import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

from tests.lab.namespaces import ENVIRONMENT, Namespace
from tests.lab.net import BROKER, CERTIFICATE, PORT, TLS_PORT
from tests.support.agent_process import ROOT
from tests.support.child import Child

T = TypeVar("T")
_KEY = "broker.key"
_GATE = f"""table inet gate {{ chain in {{
    type filter hook input priority 0; iifname != "lo" tcp dport {{ {PORT}, {TLS_PORT} }} reject with tcp reset;
}}
}}"""


class Broker:
    """mosquitto in the namespace `core`. `arrived` is, by client, when each of its numbers arrived for the first time.

    While it starts, all but the witness are refused: what arrives is then never missed.
    """

    def __init__(self, core: Namespace, folder: Path) -> None:
        self.arrived: dict[str, dict[int, float]] = {}
        self._core = core
        self._folder = folder
        self._broker: Child | None = None
        self._witness: Child | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        argv = self._core.command(sys.executable, "-m", "tests.lab.witness", PORT)
        await self._certify()
        async with AsyncExitStack() as stack:
            self._witness = await Child.spawn(
                argv, name="witness", env=ENVIRONMENT, cwd=ROOT, on_line=self._take
            )  # fmt: skip
            stack.push_async_callback(self._witness.end)
            stack.push_async_callback(self._end)
            await self.start()
            yield

    async def start(self) -> None:
        """Start it; returns once it takes connections from everywhere."""
        assert self._witness is not None
        before = self._subscriptions()
        config = self._folder / "lab.conf"
        lines = (
            *(f"listener {PORT} {address}" for address in ("127.0.0.1", BROKER)),
            f"listener {TLS_PORT} {BROKER}",
            f"certfile {self._folder / CERTIFICATE}",
            f"keyfile {self._folder / _KEY}",
            "allow_anonymous true",
            "set_tcp_nodelay true",
            "persistence false",
            "max_queued_messages 0",
            "sys_interval 0",
            "log_dest stderr",
            # As root it would become the user `mosquitto`, whom a user namespace does not have.
            "user root",
        )
        config.write_text("\n".join((*lines, "")), encoding="utf-8")
        await self._core.nft(_GATE)
        argv = self._core.command("mosquitto", "-c", config)
        self._broker = await Child.spawn(argv, name="broker", env=ENVIRONMENT, cwd=self._folder)
        await self._broker.line("mosquitto version .* running", lines=self._broker.err, within=30)
        await self.until(lambda: self._subscriptions() > before, within=30, story=self._witness.story)
        await self._core.nft("delete table inet gate")

    async def _certify(self) -> None:
        certificate, key = self._folder / CERTIFICATE, self._folder / _KEY
        if certificate.exists():
            return
        await self._core.run(
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", key, "-out", certificate, "-days", "30", "-subj", "/CN=broker of the link lab"),
            *("-addext", f"subjectAltName=IP:{BROKER}", "-addext", "keyUsage=critical,digitalSignature,keyCertSign"),
        )

    async def kill(self) -> None:
        """End it as a power cut would end a process: its sessions are gone."""
        assert self._broker is not None
        self._broker.signal(signal.SIGKILL)
        await self._broker.wait()

    def freeze(self) -> None:
        assert self._broker is not None
        self._broker.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._broker is not None
        self._broker.signal(signal.SIGCONT)

    async def until(self, condition: Callable[[], T], *, within: float, story: Callable[[], str]) -> T:
        """Wait for a condition on what has arrived. Raises TimeoutError."""
        assert self._witness is not None
        return await self._witness.bell.until(condition, within=within, story=story)

    async def _end(self) -> None:
        if self._broker is not None:
            await self._broker.end()

    def _subscriptions(self) -> int:
        assert self._witness is not None
        return self._witness.out.count("subscribed")

    def _take(self, line: str) -> None:
        when, _, rest = line.partition(" ")
        topic, _, payload = rest.partition(" ")
        _, name, *below = [*topic.split("/"), "", ""]
        if below[0] != "telemetry":
            return
        body = json.loads(payload)
        numbers = self.arrived.setdefault(name, {})
        for record in body if isinstance(body, list) else [body]:
            numbers.setdefault(record["n"], int(when) / 1e9)
