"""When certificates end, and when a person is told of it. Pure: times are Unix seconds, and arguments."""

import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

_DAY = 86_400.0


class Stage(IntEnum):
    """How near the end of a certificate is."""

    FINE = 0
    SOON = 1
    VERY_SOON = 2
    OVER = 3


_AHEAD = {Stage.SOON: (30 * _DAY, 1 / 3), Stage.VERY_SOON: (7 * _DAY, 1 / 10)}
"""How long before the end a stage begins, and which share of the certificate's whole life that may be at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What is told of a certificate: whose it is (`the client certificate`), its subject, and from when to when."""

    what: str
    subject: str
    not_before: float
    not_after: float

    def __str__(self) -> str:
        return f"{self.what} ({self.subject})"


def certificate(what: str, decoded: Mapping[str, Any]) -> Certificate:
    """Return what is told of a certificate that the ssl module has decoded (`ssl.SSLSocket.getpeercert`)."""
    names = {key: value for part in decoded.get("subject", ()) for key, value in part}
    subject = names.get("commonName") or ", ".join(names.values())
    if not subject:  # names of servers may stand in the alternative names alone (RFC 9525 section 2)
        subject = next((value for _, value in decoded.get("subjectAltName", ())), "no subject")
    return Certificate(
        what=what,
        subject=subject,
        not_before=ssl.cert_time_to_seconds(decoded["notBefore"]),
        not_after=ssl.cert_time_to_seconds(decoded["notAfter"]),
    )


def stage(of: Certificate, now: float) -> Stage:
    """Return how near the end of a certificate is: 30 days ahead is soon, 7 very soon.

    One that is made for a short life only, such as a week, is renewed late by design: of its life the last third counts
    as soon, the last tenth as very soon.
    """
    left = of.not_after - now
    if left <= 0:
        return Stage.OVER
    life = of.not_after - of.not_before
    reached = [one for one, (ahead, share) in _AHEAD.items() if left <= min(ahead, life * share)]
    return max(reached, default=Stage.FINE)


def told(of: Certificate, now: float) -> str:
    """Return the warning for a certificate that ends soon, or has ended."""
    date = f"{datetime.fromtimestamp(of.not_after, UTC):%Y-%m-%d %H:%M} UTC"
    left = of.not_after - now
    if left <= 0:
        return f"{of} has expired on {date}, by this machine's clock: renew it"
    amount = f"{left / _DAY:.0f} days" if left >= 2 * _DAY else f"{left / 3600:.0f} hours"
    return f"{of} expires in {amount}, on {date}: renew it"


class Reminder:
    """Remembers what was told: each certificate once for each stage, and so once again at each start of the agent."""

    def __init__(self) -> None:
        self._told: dict[Certificate, Stage] = {}

    def due(self, certificates: Collection[Certificate], now: float) -> list[str]:
        """Return the warnings that are due now, and take them for told."""
        reached = {one: stage(one, now) for one in certificates}
        due = {one: its for one, its in reached.items() if its > self._told.get(one, Stage.FINE)}
        self._told.update(due)
        return [told(one, now) for one in due]
