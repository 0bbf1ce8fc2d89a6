"""What must hold after any course (contract, sections 1, 3 and 4)."""

import json
from collections.abc import Iterator
from typing import Any

from tests.chaos.order import disorder
from tests.chaos.play import Outcome
from tests.support.outbox_file import Identity
from tests.support.subscriber import records

SHOWN = 5


def judge(outcome: Outcome) -> list[str]:
    """Return what is wrong, a line each; nothing for a good end."""
    return [
        *outcome.wrong,
        *outcome.ledger.wrong[:SHOWN],
        *outcome.violations[:SHOWN],
        *_some("lost", lost(outcome)),
        *_some("content", contents(outcome)),
        *_some("order", disorder(outcome.publishes, outcome.ledger.handed, outcome.ends)),
        *_some("counts", counts(outcome)),
        *_some("waits in the file", map(str, outcome.waiting)),
        *_some("not told on loss", untold(outcome)),
    ]


def _some(what: str, findings: Iterator[str]) -> list[str]:
    found = list(findings)
    shown = [f"{what}: {finding}" for finding in found[:SHOWN]]
    return [*shown, f"{what}: {len(found)} in all"] if len(found) > SHOWN else shown


def lost(outcome: Outcome) -> Iterator[str]:
    """What was answered with ok, and neither arrived nor stands in the quarantine."""
    arrived = {row[:3] for row in records(outcome.accepted)}
    for identity, answered in outcome.ledger.answered.items():
        if identity not in arrived and identity not in outcome.quarantined:
            yield f"{identity}, record {answered.number}"


def untold(outcome: Outcome) -> Iterator[str]:
    """What stands in the quarantine and in no range that was told on the topic `loss`, and what was told in vain."""
    losses = [json.loads(publish.payload) for publish in outcome.accepted if publish.topic.endswith("/loss")]
    ranges = {(loss["stream"], loss["epoch"], loss["first_seq"], loss["last_seq"]): loss["count"] for loss in losses}
    told = {(stream, epoch, seq) for stream, epoch, first, last in ranges for seq in range(first, last + 1)}
    yield from map(str, outcome.quarantined.keys() - told)
    if sum(ranges.values()) != len(outcome.quarantined):
        yield f"{sum(ranges.values())} are told, and {len(outcome.quarantined)} are in the quarantine"


def contents(outcome: Outcome) -> Iterator[str]:
    """An identity names one record for ever, and it is the record that was handed in; a record has one identity."""
    known: dict[Identity, dict[str, Any]] = {}
    names: dict[int, Identity] = {}
    handed, answered = outcome.ledger.handed, outcome.ledger.answered
    seen = [(row[:3], row.payload) for row in records(outcome.publishes)]
    for identity, record in (*seen, *outcome.quarantined.items()):
        if known.setdefault(identity, record) != record:
            yield f"{identity} is {known[identity]} and {record}"
            continue
        number = record["n"]
        if number not in handed or (handed[number].stream, handed[number].filling) != (identity[0], record["filling"]):
            yield f"{identity} is {record}, which was not handed in"
        elif names.setdefault(number, identity) != identity:
            yield f"record {number} is {names[number]} and {identity}"
        elif identity in answered and answered[identity].number != number:
            yield f"{identity} was answered for record {answered[identity].number}, and is {number}"


def counts(outcome: Outcome) -> Iterator[str]:
    """The counts in the file add up, and are those of the last status."""
    for stream, (accepted, *ended) in outcome.counts.items():
        if accepted != sum(ended):
            yield f"{stream} in the file: {accepted} accepted; delivered, quarantined, waiting: {ended}"
    for stream, figures in outcome.figures.get("streams", {}).items():
        shown = (figures["accepted"], figures["delivered"])
        if outcome.counts.get(stream, ())[:2] != shown:
            yield f"{stream}: the last status said {shown}, and the file says {outcome.counts.get(stream)}"
