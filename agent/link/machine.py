"""The link's state machine: what happened and when go in; the new state, what to do and until when come out. Pure.

docs/architecture.md draws it. `Machine.step` is the only way in, `_transition` the only place where the state changes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from agent import reasons
from agent.backoff import Backoff
from agent.errors import Cause, ConnectRefusedError, LinkDownError
from agent.link.history import History
from agent.link.repeats import Repeats
from agent.link.servers import Servers
from agent.link.states import (
    TRYING,
    WAITING,
    Abort,
    Action,
    Answered,
    Changed,
    Dial,
    Dialled,
    Elapsed,
    Event,
    Failed,
    Greeted,
    Knock,
    Leave,
    Left,
    Looked,
    Probe,
    Proven,
    Reachable,
    Reloaded,
    Started,
    State,
)

_GRACE = 3.0  # a route that is back by then was being exchanged
_EARLY = 0.25  # within so many seconds after the network changed a wait ends
_SYN_AGE = 1.0  # the kernel repeats a SYN after so many seconds, and then less and less often (RFC 6298 section 2)
_PROBE_EVERY = 1.0
_TAKEN_OVER = 30.0
_HELLO_GROWS_TO = 30.0
_MOST_DOUBLINGS = 8
_LONGEST_RETURN = 12  # times `return_after`


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """How long to wait, in seconds.

    `broker` is for a broker that refuses or is overloaded, with a herd of others behind it; `own_link` for a fault of
    the robot's own link. The count of failures falls back to 0 after a PUBACK, or once a link was up for
    `stable_after`. `hello_timeout` doubles while the broker takes connections and does not answer. `return_after` is
    how often the preferred broker is looked for while another one is connected; 0 is never.
    """

    broker: Backoff
    own_link: Backoff
    stable_after: float
    hello_timeout: float
    return_after: float


class Machine:
    """The link's state machine. `deadline` is when `Elapsed` is due, None for never; `cause` why there is no link."""

    def __init__(
        self,
        servers: Servers,
        waits: Waits,
        *,
        uniform: Callable[[float, float], float],
        now: float,
    ) -> None:
        self.state = State.BACKOFF
        self.deadline: float | None = None
        self.cause = ""
        self.since = now
        self.history = History(now)
        self.servers = servers
        self._waits = waits
        self._uniform = uniform
        self._actions: list[Action] = []
        self._failures = 0
        self._unanswered_hellos = 0
        self._refusals = 0
        self._down_since = now
        self._waits_for_own_link = True
        self._began = now
        self._source: str | None = None
        """The address that the link or the last attempt goes out from."""
        self._is_proven = False
        self._probed_at = -inf
        self._doubted_at = now
        self._returns = 0
        self._return_at: float | None = None
        self._repeats = Repeats()

    def step(self, event: Event, now: float) -> list[Action]:
        """Take one event, and return what is to be done, in order."""
        self._actions = []
        match event:
            case Looked():
                self._looked(event, now)
            case Elapsed() if self.deadline is not None and now >= self.deadline:
                self._elapsed(now)
            case Started():
                self._dial(now, "started")
            case Reloaded() if self.state in WAITING:
                self._dial(now, "settings were read again")
            case Reachable() if self.state.is_up and self.servers.is_away:
                self._return(now)
            case _:
                self._attempted(event, now)
        return self._actions

    def _attempted(self, event: Event, now: float) -> None:
        """Take what the attempt or the session tells; what came too late to matter is left out."""
        match event:
            case Dialled() if self.state is State.DIAL:
                self._source = event.source
                self._transition(State.HELLO, now, "connected")
            case Greeted() if self.state is State.HELLO:
                self._up(now)
            case Proven() if self.state.is_up:
                self._is_proven = True
                self._judge(now)
            case Answered() if self.state is State.SUSPECT:
                self._doubtless(now, "the broker answers")
            case Failed() if self.state.is_up or self.state in TRYING:
                self._failed(event.why, now)
            case Left():
                self.deadline = None
                self._transition(State.STOPPED, now, "stopped")
            case _:
                pass

    # The network.

    def _looked(self, look: Looked, now: float) -> None:
        if self.state.is_up:
            self._looked_while_up(look, now)
        elif self.state in TRYING:
            is_another = look.source is not None and self._source is not None and look.source != self._source
            is_late = self.state is State.DIAL and look.source is not None and now - self._began >= _SYN_AGE
            self._source = look.source or self._source
            if is_another or is_late:
                self._actions.append(Abort())
                self._dial(now, "the network has changed")
        elif self.state in WAITING and look.source is not None and self.state is not State.PARKED:
            if self._waits_for_own_link or look.source != self._source:
                early = now + self._uniform(0.0, _EARLY)
                self.deadline = early if self.deadline is None else min(self.deadline, early)
            self._source = look.source

    def _looked_while_up(self, look: Looked, now: float) -> None:
        if look.source is None:
            if self.state is not State.CUT_OFF:
                self.deadline = now + _GRACE
                self._transition(State.CUT_OFF, now, "there is no route to the broker")
        elif look.source != self._source:
            text = f"the local address has changed from {self._source} to {look.source}"
            self._source = look.source
            self._give_up(LinkDownError(text, cause=Cause.MOVED), now)
            self._dial(now, text)
        elif look.answer_within is None:
            if self.state is State.CUT_OFF:
                self._doubtless(now, "the route is back")
        elif self.state is State.CUT_OFF or (self.state is State.UP and now - self._probed_at >= _PROBE_EVERY):
            self._probed_at = now
            self.deadline = now + look.answer_within
            self._actions.append(Probe())
            self._transition(State.SUSPECT, now, "the network has changed")

    def _doubtless(self, now: float, why: str) -> None:
        self.deadline = self._return_at
        self._transition(State.UP, now, why)

    # The deadlines.

    def _elapsed(self, now: float) -> None:
        if self.state in WAITING:
            self._dial(now, "waited")
        elif self.state is State.UP:
            self._actions.append(Knock(server=self.servers.preferred))
            self._plan_return(now)
        elif self.state is State.CUT_OFF:
            why = LinkDownError(f"no route for {_GRACE:g} s", cause=Cause.NO_ROUTE)
            self._give_up(why, now)
            self._wait(State.NO_ROUTE, now, why)
        elif self.state is State.SUSPECT:
            silent_for = now - self._probed_at
            text = f"no answer to a probe for {silent_for:.1f} s after the network changed"
            why = LinkDownError(text, cause=Cause.NO_PROGRESS, silent_for=silent_for)
            self._give_up(why, now)
            self._dial(now, str(why))

    def _plan_return(self, now: float) -> None:
        """Set when a link to another server than the preferred one looks for that."""
        self._return_at = None
        if self.servers.is_away and self._waits.return_after:
            times = min(2 ** min(self._returns, _MOST_DOUBLINGS), _LONGEST_RETURN)
            self._return_at = now + self._waits.return_after * times * self._uniform(0.5, 1.5)
        self.deadline = self._return_at

    def _return(self, now: float) -> None:
        self._returns += 1
        why = LinkDownError(f"{self.servers.preferred} is back", cause=Cause.RETURN)
        self._judge(now)
        self.history.down(now, why.cause)
        self._actions.append(Leave())
        self.servers.go_home()
        self._down_since = now
        self._dial(now, str(why))

    # Ends.

    def _give_up(self, why: LinkDownError, now: float) -> None:
        """End a link that is up, by this side's decision."""
        self._judge(now)
        doubted_for = 0.0 if self.state is State.UP else now - self._doubted_at
        self.history.down(now, why.cause, silent_for=max(why.silent_for, doubted_for))
        self._down_since = now
        self._actions.append(Abort())

    def _judge(self, now: float) -> None:
        """See whether the link has shown that the broker is well, so that the waits begin anew."""
        is_stable = now - self.since >= self._waits.stable_after
        if is_stable:
            self.servers.settled()
        if self._is_proven or is_stable:
            self._failures = 0
            if not self.servers.is_away:
                self._returns = 0

    def _failed(self, why: LinkDownError, now: float) -> None:
        was_up = self.state.is_up
        if was_up:
            self._judge(now)
            self.history.down(now, why.cause, silent_for=why.silent_for)
            self._down_since = now
        if why.cause is Cause.NO_CONNACK:
            self._unanswered_hellos += 1
        if reasons.refers_elsewhere(why.reason_code) and (there := self.servers.refer(why.reference)) is not None:
            self._dial(now, f"{why}; going to {there}")
            return
        is_news = self._repeats.is_due((self.servers.current, why.cause, why.reason_code), now)
        is_over = self.servers.failed() if not was_up else False
        needs_a_person = isinstance(why, ConnectRefusedError) and reasons.needs_a_person(why.reason_code)
        self._refusals = self._refusals + 1 if needs_a_person else 0
        if self._refusals >= len(self.servers) or why.reason_code == reasons.TAKEN_OVER:
            self._wait(State.PARKED, now, why, is_news=is_news)
        else:
            state = State.NO_ROUTE if why.cause is Cause.NO_ROUTE else State.BACKOFF
            self._wait(state, now, why, is_news=is_news)
        if is_over or was_up:
            self._failures += 1

    # What follows.

    def _up(self, now: float) -> None:
        self.servers.connected()
        self.history.up(now, self._source or "")
        self._is_proven = False
        self._probed_at = -inf
        self._unanswered_hellos = self._refusals = 0
        self._repeats.forget()
        self.cause = ""
        self._transition(State.UP, now, "CONNACK")
        self._plan_return(now)

    def _dial(self, now: float, why: str) -> None:
        self.deadline = None
        self._began = now
        self.history.attempt()
        self._transition(State.DIAL, now, why)
        grown = self._waits.hello_timeout * 2.0 ** min(self._unanswered_hellos, _MOST_DOUBLINGS)
        hello_timeout = max(self._waits.hello_timeout, min(grown, _HELLO_GROWS_TO))
        self._actions.append(Dial(server=self.servers.current, hello_timeout=hello_timeout))

    def _wait(self, state: State, now: float, why: LinkDownError, *, is_news: bool = True) -> None:
        self._waits_for_own_link = why.cause.is_own_link
        wait = self._wait_in(state, why, now)
        self.deadline = now + wait
        hint = ": another client has the same client identifier" if why.reason_code == reasons.TAKEN_OVER else ""
        self._transition(state, now, f"{why}{hint}", wait=wait, is_news=is_news)

    def _wait_in(self, state: State, why: LinkDownError, now: float) -> float:
        broker = self._waits.broker
        if why.reason_code == reasons.TAKEN_OVER:
            return _TAKEN_OVER + self._uniform(0.0, broker.cap)
        if state is State.PARKED:
            return self._uniform(0.5, 1.0) * broker.cap
        if why.cause.is_own_link:
            return self._waits.own_link.wait(self._failures, uniform=self._uniform)
        # Where nothing listens an attempt costs the broker nothing: then no wait outlasts half of the outage so far.
        most = max(broker.base, (now - self._down_since) / 2) if why.cause is Cause.REFUSED else inf
        return broker.wait(self._failures, uniform=self._uniform, most=most)

    def _transition(self, to: State, now: float, why: str, *, wait: float = 0.0, is_news: bool = False) -> None:
        before, lasted = self.state, now - self.since
        if not to.is_up and to is not State.STOPPED and (before.is_up or to in WAITING):
            self.cause = why
        # A row of failed attempts is one outage, and a doubt no end: the change between up and down counts.
        if to.is_up != before.is_up or to is State.STOPPED:
            self.since = now
        if before is State.UP and to.is_up:
            self._doubted_at = now
        self.state = to
        is_news = is_news or before.is_up or to.is_up
        self._actions.append(Changed(before=before, after=to, why=why, wait=wait, is_news=is_news, lasted=lasted))
