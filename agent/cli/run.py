"""`roamd run`."""

import faulthandler
import os
import socket
from pathlib import Path

from agent import daemon
from agent.cli.logs import log_to_stderr
from agent.settings import load


def main(config: Path | None) -> int:
    """Run the agent until it is told to stop."""
    faulthandler.enable()
    settings = load(config=config, environ=os.environ, hostname=socket.gethostname()).settings
    log_to_stderr(settings.log.level)
    return daemon.run(settings)
