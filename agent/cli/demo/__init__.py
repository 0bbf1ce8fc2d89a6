"""`roamd demo`: the real agent, a real broker and a subscriber on this machine, and what arrives."""

import asyncio
import signal
import tempfile
from pathlib import Path

from agent.cli.demo.broker import Broker
from agent.cli.demo.play import Play
from agent.cli.demo.screen import closing_lines, screen


def run(duration: float | None, outage: float | None) -> int:
    """Play for `duration` seconds (None: until Ctrl-C), with the broker killed for `outage` seconds midway.

    Returns 1 if anything that the agent accepted is lost, else 0. Raises UnavailableError.
    """
    return asyncio.run(_run(duration, outage))


async def _run(duration: float | None, outage: float | None) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with tempfile.TemporaryDirectory(prefix="roamd-demo-") as folder, screen() as shown:
        broker = Broker(Path(folder))
        try:
            verdict = await Play(Path(folder), broker, shown).run(duration=duration, outage=outage, stop=stop)
        finally:
            await broker.kill()
    for line in closing_lines(verdict):
        print(line)
    return 1 if verdict.lost else 0
