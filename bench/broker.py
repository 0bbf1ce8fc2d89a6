"""mosquitto as the remote broker, and as the bridge that is one of the peers."""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.processes import BenchError, Process, program
from bench.tools import Tools
from tests.support.ports import free_port

DEFAULT_LIMITS = "default limits"
WIDE_LIMITS = "1000 in flight"
LIMITS = {DEFAULT_LIMITS: (), WIDE_LIMITS: ("max_inflight_messages 1000",)}
"""What a broker's settings say of packets in flight; mosquitto's own default is 20."""


def free() -> int:
    """Return a port of 127.0.0.1 on which nobody listens."""
    return free_port()


@contextmanager
def mosquitto(
    folder: Path, port: int, settings: Sequence[str] = (), *, name: str = "broker", syncs: Path | None = None
) -> Iterator[Process]:
    """Run a mosquitto until the end of the block; it answers when the block begins. Its queues have no limit."""
    lines = (
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
        "max_queued_messages 0",
        "log_dest stderr",
        "log_type error",
        # Started by root it would become the user `mosquitto`, who may not write here.
        *(["user root"] if os.geteuid() == 0 else []),
        *settings,
    )
    config = folder / f"{name}.conf"
    config.write_text("\n".join((*lines, "")), encoding="utf-8")
    argv = [program("mosquitto", package="mosquitto"), "-c", config]
    with Process(name, argv, folder=folder, syncs=syncs) as process:
        _answers(process, port)
        yield process


def bridge_settings(folder: Path, remote: int, *, host: str = "127.0.0.1") -> list[str]:
    """Return the settings of a bridge that keeps what it has, saved each second: the best of Debian's mosquitto."""
    return [
        "persistence true",
        f"persistence_location {folder}/",
        "autosave_interval 1",
        # 0, no limit, fails for ever on 2.0.11 with MQTT 5 on the remote side.
        "max_inflight_messages 1000",
        "connection remote",
        f"address {host}:{remote}",
        "topic # out 1",
        "bridge_protocol_version mqttv50",
        "cleansession false",
        "restart_timeout 1",
        "notifications false",
        "try_private false",
    ]


def _answers(process: Process, port: int) -> None:
    """Wait until it takes connections."""
    for _ in range(200):
        with socket.socket() as probe:
            probe.settimeout(0.05)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if not process.runs(within=0.05):
            break
    raise BenchError(f"{process.name} does not listen:\n{process.log()}")


@contextmanager
def counter(tools: Tools, port: int, folder: Path, *, topics: str, records: int) -> Iterator["Process"]:
    """Run the counting subscriber. It subscribes with QoS 0, so that the broker's own work is least; losses show."""
    argv = [tools.count, str(port), topics, str(records), "0"]
    with Process("count", argv, folder=folder) as process:
        process.expect("ready")
        yield process
