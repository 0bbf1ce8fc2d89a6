"""A thousand robots and one broker, simulated: each has the real state machine, and the events are in a queue."""

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from agent.backoff import Backoff, Strategy
from agent.errors import Cause, LinkDownError
from agent.link import states
from agent.link.machine import Machine, Waits
from agent.link.servers import Servers
from agent.link.states import Event, State
from agent.model import Server

ROBOTS = 1_000
ROUND_TRIP = 0.04
BROKER = Server(host="broker", port=1883)


@dataclass
class Herd:
    """All robots are connected at 0; `connects` has the time of each TCP connection that the broker took afterwards.

    A broker of `per_second` answers so many CONNECTs a second, in their order, those of clients that are gone as well.
    """

    seed: int = 1
    per_second: float | None = None
    strategy: Strategy = Strategy.FULL_JITTER
    now: float = 0.0
    is_there: bool = True
    connects: list[float] = field(default_factory=list)
    machines: list[Machine] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._asked: deque[tuple[int, int]] = deque()
        self._attempts = [0] * ROBOTS
        source = random.Random(self.seed)
        grows = {"strategy": self.strategy, "jitter": 0.5}
        waits = Waits(
            broker=Backoff(base=1.0, cap=30.0, **grows),  # type: ignore[arg-type]
            own_link=Backoff(base=0.5, cap=4.0, **grows),  # type: ignore[arg-type]
            stable_after=30.0,
            hello_timeout=10.0,
            return_after=300.0,
        )
        for _ in range(ROBOTS):
            machine = Machine(Servers([BROKER]), waits, uniform=source.uniform, now=0.0)
            for event in (states.Started(), states.Dialled(source="10.0.0.2"), states.Greeted(), states.Proven()):
                machine.step(event, 0.0)
            self.machines.append(machine)
        if self.per_second:
            self._after(0.0, self._serve)

    @property
    def up(self) -> int:
        return sum(machine.state is State.UP for machine in self.machines)

    def goes(self) -> None:
        """The broker ends; each connection is closed."""
        self.is_there = False
        for robot in range(ROBOTS):
            self._tell(robot, states.Failed(why=LinkDownError("closed", cause=Cause.CLOSED)))

    def comes(self) -> None:
        self.is_there = True

    def run(self, until: float) -> None:
        while self._queue and self._queue[0][0] <= until:
            self.now, _, happens = heapq.heappop(self._queue)
            happens()
        self.now = until

    def all_up_at(self, within: float) -> float:
        """Run until all are connected; return how long that took."""
        began = self.now
        while self.up < ROBOTS and self.now < began + within:
            self.run(self.now + 0.1)
        return self.now - began

    def _after(self, seconds: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + seconds, next(self._order), happens))

    def _tell(self, robot: int, event: Event) -> None:
        machine = self.machines[robot]
        for action in machine.step(event, self.now):
            if isinstance(action, states.Dial):
                self._attempts[robot] += 1
                self._dial(robot, self._attempts[robot], action.hello_timeout)
        if machine.deadline is not None:
            self._after(machine.deadline - self.now, lambda: self._tell(robot, states.Elapsed()))

    def _tell_attempt(self, robot: int, attempt: int, *events: Event) -> None:
        for event in events:
            if self._attempts[robot] == attempt:
                self._tell(robot, event)

    def _dial(self, robot: int, attempt: int, hello_timeout: float) -> None:
        if not self.is_there:
            failed = states.Failed(why=LinkDownError("refused", cause=Cause.REFUSED))
            self._after(ROUND_TRIP, lambda: self._tell_attempt(robot, attempt, failed))
            return
        self.connects.append(self.now)
        dialled = states.Dialled(source="10.0.0.2")
        self._after(ROUND_TRIP, lambda: self._tell_attempt(robot, attempt, dialled))
        if self.per_second:
            self._after(ROUND_TRIP, lambda: self._asked.append((robot, attempt)))
            failed = states.Failed(why=LinkDownError("no CONNACK", cause=Cause.NO_CONNACK))
            self._after(
                ROUND_TRIP + hello_timeout,
                lambda: self._tell_attempt(robot, attempt, failed) if not self.machines[robot].state.is_up else None,
            )
        else:
            self._after(2 * ROUND_TRIP, lambda: self._tell_attempt(robot, attempt, states.Greeted(), states.Proven()))

    def _serve(self) -> None:
        assert self.per_second is not None
        if self._asked:
            robot, attempt = self._asked.popleft()
            self._tell_attempt(robot, attempt, states.Greeted(), states.Proven())
        self._after(1 / self.per_second, self._serve)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_after_a_minute_without_a_broker_a_thousand_robots_come_back_soon_and_not_in_step(seed: int) -> None:
    herd = Herd(seed)
    herd.goes()
    herd.run(60.0)
    assert herd.up == 0
    herd.comes()
    assert herd.all_up_at(within=60.0) <= 35.0
    most = max(Counter(int(at * 10) for at in herd.connects).values())
    assert most <= 20


def test_fixed_waits_would_bring_them_back_in_step() -> None:
    """The measure can fail: 1,000 in a tenth of a second."""
    herd = Herd(strategy=Strategy.FIXED)
    herd.goes()
    herd.run(60.0)
    herd.comes()
    herd.all_up_at(within=60.0)
    assert max(Counter(int(at * 10) for at in herd.connects).values()) > 500


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_broker_that_greets_25_a_second_lets_all_of_them_in(seed: int) -> None:
    herd = Herd(seed, per_second=25.0)
    herd.goes()
    herd.run(60.0)
    herd.comes()
    took = herd.all_up_at(within=600.0)
    assert herd.up == ROBOTS, f"{herd.up} are connected after {took:.0f} s"


@pytest.mark.parametrize(("outage", "within"), [(1.0, 2.0), (10.0, 5.0)])
def test_a_broker_that_was_away_shortly_has_most_of_them_back_shortly(outage: float, within: float) -> None:
    herd = Herd()
    herd.goes()
    herd.run(outage)
    herd.comes()
    herd.run(outage + within)
    assert herd.up >= 0.95 * ROBOTS
