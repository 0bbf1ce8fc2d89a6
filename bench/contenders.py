"""Who is measured: each starts its processes, and tells which of them counts and how to begin."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import broker, roamd
from bench.processes import Process, python
from bench.records import TAIL, TOPIC
from bench.tools import Tools

STOCK_GMQTT = "stock gmqtt"
BRIDGE = "mosquitto bridge"
AGENT = "roamd"
IN_PROCESS = "roamd, in process"
SOCKET = "roamd, socket"

_FEW = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a contender has to do: send `records` to the broker at `port`; its files go to `folder`."""

    tools: Tools
    folder: Path
    port: int
    records: int
    sync_delay_us: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A contender that is connected. `process` is the one whose cost counts; `end` brings what it knows at last."""

    process: Process
    go: Callable[[], None]
    end: Callable[[], dict[str, float]] = dict


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """`part` is its share of the records: slow ones send fewer. `skip` says why it cannot take part."""

    name: str
    start: Callable[[Job], AbstractContextManager[Running]]
    part: float = 1.0
    skip: str = ""


# The agent.


@contextmanager
def _in_process(job: Job, *, delivery: str, batch: bool = False) -> Iterator[Running]:
    config = roamd.settings_file(job.folder, job.port, delivery=delivery, batch=batch)
    command = python("bench.driver", job.records)
    with roamd.running(
        config, syncs=job.tools.syncs, sync_delay_us=job.sync_delay_us, command=command
    ) as (process, told):  # fmt: skip
        told.wait("STATUS=up")

        def end() -> dict[str, float]:
            process.hang_up()
            return {"rows": float(process.expect("rows"))}

        yield Running(process=process, go=partial(process.say, "go"), end=end)


@contextmanager
def _through_socket(job: Job, *, delivery: str, batch: bool = False) -> Iterator[Running]:
    config = roamd.settings_file(job.folder, job.port, delivery=delivery, batch=batch)
    # `stored`: an answer for each 50 lines, and 1,000 lines on their way; `synced`: each line has its waiter.
    every, most_open = (50, 20 if not batch else 40) if delivery == "stored" else (1, 1000)
    with roamd.running(config, syncs=job.tools.syncs, sync_delay_us=job.sync_delay_us) as (process, told):
        told.wait("STATUS=up", "READY=1")
        feed = python(
            "bench.feed", roamd.socket_path(config), job.records, "--every", every, "--open", most_open
        )  # fmt: skip
        with Process("feed", feed, folder=job.folder) as feeder:
            feeder.expect("ready")
            yield Running(
                process=process, go=partial(feeder.say, "go"), end=lambda: {"rows": roamd.last_row_written(config)}
            )


def in_process(delivery: str, *, batch: bool = False) -> Contender:
    """Return the agent's parts, fed in their own process."""
    return _agent(IN_PROCESS, _in_process, delivery, batch=batch)


def through_socket(delivery: str, *, batch: bool = False) -> Contender:
    """Return `roamd run`, fed by another process."""
    return _agent(SOCKET, _through_socket, delivery, batch=batch)


def _agent(
    name: str, start: Callable[..., AbstractContextManager[Running]], delivery: str, *, batch: bool
) -> Contender:
    return Contender(
        name=f"{name}, {delivery}" + (f", batch {roamd.BATCH}" if batch else ""),
        start=partial(start, delivery=delivery, batch=batch),
        skip="the settings have no streams.NAME.batch yet" if batch and not roamd.has_batches() else "",
    )


# Its peers.


@contextmanager
def _talking(job: Job, *, name: str, argv: Callable[[Job], list[str]]) -> Iterator[Running]:
    with Process(
        name, argv(job), folder=job.folder, syncs=job.tools.syncs, sync_delay_us=job.sync_delay_us
    ) as process:  # fmt: skip
        process.expect("ready")
        yield Running(process=process, go=partial(process.say, "go"))


@contextmanager
def _bridge(job: Job) -> Iterator[Running]:
    port = broker.free()
    with (
        broker.mosquitto(
            job.folder, port, broker.bridge_settings(job.folder, job.port), name="bridge", syncs=job.tools.syncs
        ) as process,
        Process("produce", _produce(job, port), folder=job.folder) as producer,
    ):
        producer.expect("ready")
        # The bridge dials when it starts; what is published before it is up waits in its queue.
        yield Running(process=process, go=partial(producer.say, "go"))


def _produce(job: Job, port: int) -> list[str]:
    return [str(job.tools.produce), str(port), TOPIC, str(job.records), TAIL.decode()]


def ceiling() -> Contender:
    """Return a producer in C that does nothing else: what the broker and the subscriber can take."""
    return Contender(
        name="C producer (ceiling)", start=partial(_talking, name="produce", argv=lambda job: _produce(job, job.port))
    )


def stock_gmqtt() -> Contender:
    """Return gmqtt's own client, handed ready-made bytes."""
    argv = lambda job: python("bench.peer_gmqtt", job.port, job.records)  # noqa: E731
    return Contender(name=STOCK_GMQTT, start=partial(_talking, name="gmqtt", argv=argv))


def stock_gmqtt_encoding() -> Contender:
    """Return gmqtt's own client, handed the fields."""
    argv = lambda job: python("bench.peer_gmqtt", job.port, job.records, "--encode")  # noqa: E731
    return Contender(name=f"{STOCK_GMQTT}, encoding", start=partial(_talking, name="gmqtt", argv=argv))


def bridge() -> Contender:
    """Return Debian's mosquitto as a bridge with persistence."""
    return Contender(name=BRIDGE, start=_bridge)


def paho_sqlite() -> Contender:
    """Return Paho Python behind SQLite."""
    argv = lambda job: python("bench.peer_paho_sqlite", job.port, job.folder, job.records)  # noqa: E731
    return Contender(
        name="Paho + SQLite, a commit each",
        start=partial(_talking, name="paho", argv=argv),
        part=_FEW,
        skip="" if importlib.util.find_spec("paho") else "paho-mqtt is missing: pip install paho-mqtt",
    )


def paho_c(tools: Tools) -> Contender:
    """Return Paho C, from memory."""
    return Contender(
        name="Paho C, memory",
        start=partial(
            _talking, name="paho", argv=lambda job: [str(tools.paho), *_produce(job, job.port)[1:]]
        ),
        skip="" if tools.paho else "MQTTAsync.h is missing: apt install libpaho-mqtt-dev",
    )  # fmt: skip
