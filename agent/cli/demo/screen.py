"""What the demo shows: a live table on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agent.cli.demo.tally import Tally, Verdict

_PLAIN_EVERY = 2.0
_LOG_LINES = 4
_RESERVED = ("ts", "epoch", "seq")


@dataclass(slots=True)
class View:
    """What there is to show at one moment. Times are seconds since the start."""

    tally: Tally
    elapsed: float = 0.0
    broker: str = "up"
    agent: Mapping[str, Any] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    @property
    def link(self) -> str:
        """The link's state as the agent tells it."""
        return str(self.agent.get("link", {}).get("state", "starting"))

    @property
    def depth(self) -> int:
        """Records in the outbox, as the agent tells it."""
        return int(self.agent.get("outbox", {}).get("waiting", 0))


class Screen(Protocol):
    """Somewhere to show a view."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def show(self, view: View, now: float) -> None: ...  # noqa: D102
    def say(self, line: str) -> None: ...  # noqa: D102


def screen() -> Screen:
    """Return the screen that fits standard output."""
    return _Terminal() if sys.stdout.isatty() else _Plain()


def closing_lines(verdict: Verdict) -> list[str]:
    """Return how it went, a count to a line."""
    lines = [
        f"accepted   {verdict.accepted:>8}   by the agent",
        f"delivered  {verdict.delivered:>8}   received by the subscriber, each counted once",
        f"doubled    {verdict.doubled:>8}   received again; (stream, epoch, seq) tells them apart",
        f"lost       {verdict.lost:>8}",
    ]
    if verdict.waiting:
        lines.insert(3, f"waiting    {verdict.waiting:>8}   still in the outbox")
    return lines


class _Plain:
    """Lines without control codes, one every two seconds."""

    def __init__(self) -> None:
        self._next = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, view: View, now: float) -> None:
        if now < self._next:
            return
        self._next = now + _PLAIN_EVERY
        streams = " ".join(f"{name}={received.records}" for name, received in sorted(view.tally.streams.items()))
        self.say(
            f"{view.elapsed:5.1f} s  broker {view.broker}  link {view.link}  outbox {view.depth}"
            f"  received {view.tally.delivered}  {streams}"
        )

    def say(self, line: str) -> None:
        print(line, flush=True)


class _Terminal:
    """A table that is refreshed in place."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, refresh_per_second=8, transient=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, view: View, now: float) -> None:
        self._live.update(Group(_head(view), _table(view, now), _log(view)))

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)


def _head(view: View) -> Text:
    up = view.link == "up"
    return Text.assemble(
        f"{view.elapsed:5.1f} s   broker ",
        (view.broker, "green" if view.broker == "up" else "bold red"),
        "   link ",
        (view.link, "green" if up else "bold red"),
        "   outbox ",
        (str(view.depth), "bold yellow" if view.depth else "green"),
        overflow="ellipsis",
        no_wrap=True,
    )


def _table(view: View, now: float) -> Table:
    table = Table(expand=True, pad_edge=False, box=None)
    table.add_column("stream", no_wrap=True)
    table.add_column("received", justify="right", no_wrap=True)
    table.add_column("late", justify="right", no_wrap=True)
    table.add_column("rate/s", justify="right", no_wrap=True)
    table.add_column("latest", overflow="ellipsis", no_wrap=True, ratio=1)
    for name, received in sorted(view.tally.streams.items()):
        values = (f"{k}={v}" for k, v in received.latest.items() if k not in _RESERVED)
        table.add_row(
            name,
            str(received.records),
            str(received.backfilled) if received.backfilled else "",
            f"{received.rate(now):.1f}",
            Text("  ".join(values)),
        )
    return table


def _log(view: View) -> Text:
    return Text("\n".join(view.log[-_LOG_LINES:]), style="dim", overflow="ellipsis", no_wrap=True)
