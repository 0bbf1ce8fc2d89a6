"""`roamd run`."""

import faulthandler
import logging
import os
import socket
import sys
from pathlib import Path

from agent import daemon
from agent.settings import load


def main(config: Path | None) -> int:
    """Run the agent until it is told to stop."""
    faulthandler.enable()
    settings = load(config=config, environ=os.environ, hostname=socket.gethostname()).settings
    _log_to_stderr(settings.log.level)
    return daemon.run(settings)


def _log_to_stderr(level: str) -> None:
    """Log text lines: with the time on a terminal, without where something else adds it."""
    stamp = "%(asctime)s " if sys.stderr.isatty() else ""
    logging.basicConfig(level=level.upper(), format=f"{stamp}%(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("aiosqlite").setLevel(logging.WARNING)
