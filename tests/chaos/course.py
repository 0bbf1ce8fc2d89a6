"""All that happens in one seed's course, drawn beforehand: settings, feeding, lives, weather and scripts."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from agent import sources
from tests.chaos.feeder import Portion
from tests.support.agent_process import Setting
from tests.support.packets import Publish
from tests.support.script import Hello, Script

STREAMS = ("stored", "synced", "event/bump")
NO_MATCHING_SUBSCRIBERS, NOT_AUTHORIZED, QUOTA_EXCEEDED = 0x10, 0x87, 0x97
SERVER_UNAVAILABLE, SERVER_BUSY = 0x88, 0x89
SMALL_PACKETS = 2_000
"""A Maximum Packet Size that some of the records exceed."""
SCRIPTS = 1_000
FAULTS = {
    "calm": 5, "dropping acks": 3, "holding acks": 3, "delaying acks": 4, "reversing acks": 4, "stalling": 1,
    "unreachable": 2,
}  # fmt: skip
ENDS = {"": 2, "abort": 3, "abort, sessions lost": 2}
"""What happens at the end of a fault. Each with its weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One process of the agent. `kill` ends it without warning; otherwise it is killed `grace` after SIGTERM."""

    lasts: float
    kill: bool
    grace: float
    patient: bool
    """False: it ends `lasts` seconds after its start, whether it came up or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    kind: str
    lasts: float
    amount: float
    end: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """`feeds` are those of the clients, each a list of portions. After the `lives` comes one that lasts to the end."""

    seed: int
    settings: dict[str, Setting]
    feeds: list[list[Portion]]
    lives: list[Life]
    weather: list[Fault]
    scripts: list[Script]


def draw(seed: int, *, length: float = 4.0) -> Course:
    """A course of about `length` seconds. Each part has dice of its own, so that none depends on how another went."""

    def dice(part: str) -> random.Random:
        return random.Random(f"{seed} {part}")

    clients = dice("clients").randint(1, 3)
    return Course(
        seed=seed,
        settings=_settings(dice("settings")),
        feeds=[_portions(dice(f"client {number}"), length) for number in range(clients)],
        lives=_lives(dice("lives"), length),
        weather=_weather(dice("weather"), length),
        scripts=[_script(dice(f"script {number}")) for number in range(SCRIPTS)],
    )


def _settings(choose: random.Random) -> dict[str, Setting]:
    return {
        "device_id": "rover",
        "broker.hello_timeout": 0.3,
        "broker.dead_after": 1,
        "broker.max_inflight": choose.choice((1, 2, 10, 100, 1000)),
        "broker.backoff.base": 0.02,
        "broker.backoff.cap": 0.1,
        "broker.backoff.link_cap": 0.1,
        "outbox.commit_interval": 0.05,
        "outbox.fresh_for": choose.choice((0.2, 0.5, 2.0)),
        "outbox.backlog_share": choose.choice((0.05, 0.2, 0.5, 0.9)),
        "streams.synced.delivery": "synced",
        "streams.synced.priority": choose.choice((5, 7)),
        **{f"streams.{name}.enabled": False for name in sources.STARTED},
    }


def _portions(choose: random.Random, length: float) -> list[Portion]:
    count = choose.randint(20, 80)
    weights = [choose.uniform(0.2, 1.0) for _ in STREAMS]
    most = choose.choice((3, 20, 60))
    pauses = [choose.random() ** 3 for _ in range(count)]
    return [
        Portion(
            records=tuple(
                (stream, _size(choose)) for stream in choose.choices(STREAMS, weights, k=choose.randint(1, most))
            ),
            pause=length * pause / sum(pauses),
        )
        for pause in pauses
    ]


def _size(choose: random.Random) -> int:
    return choose.randint(10, 3_000) if choose.random() < 0.1 else choose.randint(10, 300)


def _lives(choose: random.Random, length: float) -> list[Life]:
    lives, left = [], length * choose.uniform(0.2, 0.8)
    while left > 0:
        lasts = min(left, choose.choice((0.05, 0.3, 1.0, 3.0)) * choose.uniform(0.2, 2.0))
        kill = choose.random() < 0.65
        lives.append(Life(lasts=lasts, kill=kill, grace=choose.uniform(0.05, 2.0), patient=choose.random() < 0.85))
        left -= lasts + 0.5
    return lives


def _weather(choose: random.Random, length: float) -> list[Fault]:
    weather, left = [], length
    while left > 0:
        [kind] = choose.choices(list(FAULTS), list(FAULTS.values()))
        [end] = choose.choices(list(ENDS), list(ENDS.values()))
        lasts = min(left, choose.choice((0.05, 0.3, 0.3, 1.5)) * choose.uniform(0.2, 1.2))
        if kind == "unreachable":
            lasts = min(left, 2 * lasts)
        weather.append(Fault(kind=kind, lasts=lasts, amount=choose.random(), end=end))
        left -= lasts
    return weather


def _script(choose: random.Random) -> Script:
    [kind] = choose.choices(("open", "refused", "not authorized", "silence", "close"), (0.80, 0.08, 0.02, 0.05, 0.05))
    if kind == "silence":
        return Script(hello=Hello.SILENCE)
    if kind == "close":
        return Script(hello=Hello.CLOSE)
    if kind == "not authorized":
        return Script(reason=NOT_AUTHORIZED)
    if kind == "refused":
        return Script(reason=choose.choice((SERVER_UNAVAILABLE, SERVER_BUSY, QUOTA_EXCEEDED)))
    properties: dict[str, int] = {}
    if choose.random() < 0.5:
        properties["receive_maximum"] = choose.choice((1, 5, 20, 100, 65_535))
    if choose.random() < 0.1:
        properties["maximum_packet_size"] = SMALL_PACKETS
    return Script(
        properties=dict(properties),
        session_present=False if choose.random() < 0.1 else None,
        abort_after=choose.choice((3, 30, 300)) * choose.randint(1, 3) // 3 if choose.random() < 0.4 else None,
        ack=_answers(choose) if choose.random() < 0.6 else _accept,
    )


def _accept(_packet: Publish) -> int:
    return 0


def _answers(choose: random.Random) -> Callable[[Publish], int | None]:
    """Refuse some, now and then one for good; a loss that was told must not get lost itself."""
    quota = choose.choice((0.0, 0.0, 0.03, 0.2))
    for_good, none = (choose.choice((0.0, most)) for most in (0.005, 0.003))

    def answer(packet: Publish) -> int | None:
        drawn = choose.random()
        if drawn < quota:
            return QUOTA_EXCEEDED
        if drawn < quota + for_good and not packet.topic.endswith(("/loss", "/status")):
            return NOT_AUTHORIZED
        if drawn < quota + for_good + none:
            return None
        return NO_MATCHING_SUBSCRIBERS if drawn > 0.9 else 0

    return answer
