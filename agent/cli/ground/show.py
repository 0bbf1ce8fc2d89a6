"""`roamd ground devices` and `records`: what is kept."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict

from agent import clock
from agent.errors import StorageError
from agent.ground import figures
from agent.ground.figures import DeviceFigures
from agent.ground.file import opened_existing

_HEADER = ("device", "status", "epoch", "seen", "records", "doubled", "missing", "explained")
_KINDS = ("missing", "explained", "before", "dropped")
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def devices(arguments: argparse.Namespace) -> int:
    """Print a line for each device, and one for each of its streams in which anything is missing."""
    with opened_existing(arguments.db) as database:
        found = figures.devices(database)
    if arguments.json:
        for device in found:
            print(json.dumps(_document(device)))
        return 0
    now = clock.unix_ms()
    rows = [_HEADER, *(_row(device, now) for device in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for device in found:
        for line in _complaints(device):
            print(line)
    return 0


def records(arguments: argparse.Namespace) -> int:
    """Print the records of a stream in the order of (epoch, seq). Raises StorageError where there is none."""
    with opened_existing(arguments.db) as database:
        shown = 0
        for epoch, seq, ts, body in figures.records(database, arguments.device, arguments.stream):
            shown += 1
            print(body if arguments.json else f"{epoch}/{seq}\t{ts}\t{_fields(body)}")
        if not shown:
            raise StorageError(f"nothing of {arguments.stream} of {arguments.device} is in {arguments.db}")
    return 0


def _fields(body: str) -> str:
    rest = {key: value for key, value in json.loads(body).items() if key not in {"ts", "epoch", "seq"}}
    return json.dumps(rest)


def _document(device: DeviceFigures) -> dict[str, object]:
    document = asdict(device)
    for stream, own in zip(document["streams"], device.streams, strict=True):
        stream.update({kind: own.count(kind) for kind in _KINDS})
    return document


def _row(device: DeviceFigures, now: int) -> tuple[str, ...]:
    status = device.status or {}
    counts = [sum(stream.count(kind) for stream in device.streams) for kind in ("missing", "explained")]
    return (
        _shown(device.name),
        str(status.get("status", "-")),
        str(status.get("epoch", "-")),
        "-" if device.seen_ts is None else f"{_ago(now - device.seen_ts)} ago",
        str(sum(stream.records for stream in device.streams)),
        str(sum(stream.doubles for stream in device.streams)),
        *map(str, counts),
    )


def _shown(name: str) -> str:
    return name if name.isprintable() else ascii(name)  # a stranger's, for a terminal


def _ago(ms: int) -> str:
    seconds = max(0, ms // 1000)
    size, unit = next((one for one in _UNITS if seconds >= one[0]), _UNITS[-1])
    return f"{seconds // size}{unit}"


def _complaints(device: DeviceFigures) -> Iterator[str]:
    for stream in device.streams:
        for gaps in stream.gaps:
            if gaps.missing:
                some = ", ".join(f"{first}-{last}" for first, last in gaps.missing[:5])
                more = f" and {len(gaps.missing) - 5} more" if len(gaps.missing) > 5 else ""  # noqa: PLR2004
                yield f"{_shown(device.name)} {stream.name}: missing of epoch {gaps.epoch}: {some}{more}"
        if stream.conflicts:
            odd = f"{stream.conflicts} records have an identity that another record has"
            yield f"{_shown(device.name)} {stream.name}: {odd}"
