"""The table: a row for each fault and contender, the targets beside the agent's."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from rich.table import Table

from tests.lab.contenders import AGENT_TLS, AGENTS
from tests.lab.matrix import CASES, Case
from tests.lab.measure import Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """All clients of a contender in all repetitions of a fault. A figure of None was not measured, or never was."""

    case: Case
    contender: str
    figures: Sequence[Figures]

    @property
    def next(self) -> list[float]:
        """In rising order; empty where the fault is measured while it lasts."""
        lasting = self.case.target.disconnects is not None
        return [] if lasting else sorted(one.next for one in self.figures)

    @property
    def noticed(self) -> list[float]:
        """In rising order; infinite where the client has said nothing."""
        return sorted(math.inf if one.noticed is None else one.noticed for one in self.figures)

    @property
    def disconnects(self) -> float:
        """For each client and minute where the fault is measured while it lasts, else for each client and fault."""
        count = sum(one.disconnects for one in self.figures)
        if self.case.target.disconnects is None:
            return count / len(self.figures)
        return count / sum(one.minutes for one in self.figures)

    @property
    def lost(self) -> int:
        return sum(one.lost for one in self.figures)

    @property
    def limit(self) -> float | None:
        """What `next` is to be at most."""
        target = self.case.target
        return target.next_tls or target.next if self.contender == AGENT_TLS else target.next

    def misses(self) -> list[str]:
        """Tell which targets are missed."""
        target, missed = self.case.target, []
        if self.limit is not None and at(self.next, 0.95) > self.limit:
            missed.append("next")
        if target.noticed is not None and self._is_noticed_late(target.noticed):
            missed.append("noticed")
        if target.disconnects is not None and self.disconnects > target.disconnects:
            missed.append("disconnects")
        if self.lost:
            missed.append("lost")
        return missed

    def _is_noticed_late(self, limit: float) -> bool:
        # A fault that ends by itself within the limit need not be noticed at all.
        noticed = [when for when in self.noticed if self.case.lasts > limit or when < math.inf]
        return bool(noticed) and at(noticed, 0.95) > limit


def at(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of the sorted values lies (nearest rank)."""
    return values[max(0, math.ceil(share * len(values)) - 1)]


def rows(figures: Iterable[Figures]) -> list[Row]:
    gathered: dict[tuple[str, str], list[Figures]] = {}
    for one in figures:
        gathered.setdefault((one.case, one.contender), []).append(one)
    return [Row(case=CASES[case], contender=who, figures=ones) for (case, who), ones in gathered.items()]


def table(measured: Sequence[Row]) -> Table:
    shown = Table(
        title="RTT 40 ms (loss: 20 % of the frames each way, 300 ms); 2 messages/s a client; figures in seconds",
        caption="next: from the moment when the path is usable to the next PUBACK. noticed: from the fault's "
        "beginning. down: disconnects a client; of loss, a client-minute. lost: not there 20 s after all are back, or "
        "after the patience. Targets are at p95.",
    )
    for heading in ("fault", "who"):
        shown.add_column(heading)
    for heading in ("n", "next p50", "p95", "max", "noticed p50", "p95", "down", "lost", "of", "target"):
        shown.add_column(heading, justify="right")
    shown.add_column("met")
    for before, row in zip([None, *measured], measured, strict=False):
        # A line between the faults, where each has several rows.
        if before is not None and before.case is not row.case and len({one.contender for one in measured}) > 1:
            shown.add_section()
        shown.add_row(*_cells(row))
    return shown


def _cells(row: Row) -> tuple[str, ...]:
    is_agent = row.contender in AGENTS
    misses = row.misses()
    return (
        row.case.name,
        row.contender,
        str(len(row.figures)),
        *(seconds(at(row.next, share)) if row.next else "" for share in (0.5, 0.95, 1.0)),
        *(seconds(at(row.noticed, share)) for share in (0.5, 0.95)),
        f"{row.disconnects:.2f}",
        str(row.lost),
        str(sum(one.sent for one in row.figures)),
        _target(row) if is_agent else "",
        "" if not is_agent else f"[red]no: {', '.join(misses)}[/]" if misses else "[green]yes[/]",
    )


def seconds(value: float) -> str:
    """Return the figure as it is shown."""
    return "never" if value == math.inf else f"{value:.2f}"


def _target(row: Row) -> str:
    target = row.case.target
    parts = {"next": row.limit, "noticed": target.noticed, "down": target.disconnects}
    return ", ".join([*(f"{name} {limit:g}" for name, limit in parts.items() if limit is not None), "lost 0"])


def document(measured: Sequence[Row]) -> str:
    """Return all figures as JSON; null is never."""
    told = [
        {
            "fault": row.case.name,
            "contender": row.contender,
            "target": asdict(row.case.target),
            "misses": row.misses(),
            "clients": [
                asdict(one) | {"next": one.next if row.next and one.next < math.inf else None} for one in row.figures
            ],
        }
        for row in measured
    ]
    return json.dumps(told, indent=1) + "\n"
