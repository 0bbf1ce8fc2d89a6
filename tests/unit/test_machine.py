"""The link's state machine: every state with every event, and the courses that faults take. The clock is played."""

import itertools
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.backoff import Backoff, Strategy
from agent.errors import Cause, ConnectRefusedError, LinkDownError
from agent.link import states
from agent.link.machine import Machine, Waits
from agent.link.servers import Servers
from agent.link.states import Action, Changed, Event, State
from agent.model import Server

HERE, THERE = "10.0.0.2", "10.0.1.2"
FIRST, SECOND = Server(host="a.example", port=1883), Server(host="b.example", port=1883)


def down(cause: Cause = Cause.LOST, reason_code: int = 0, **more: str) -> states.Failed:
    return states.Failed(why=LinkDownError("gone", cause=cause, reason_code=reason_code, **more))  # type: ignore[arg-type]


def refused(code: int) -> states.Failed:
    return states.Failed(why=ConnectRefusedError("refused", reason_code=code))


def look(source: str | None) -> states.Looked:
    return states.Looked(source=source, answer_within=1.0)


class Lab:
    """A machine and its clock. Full jitter always draws the longest wait."""

    def __init__(self, *servers: Server, return_after: float = 300.0, referrals: Sequence[str] = ()) -> None:
        self.now = 1000.0
        self.machine = Machine(
            Servers(servers or (FIRST,), referrals=referrals),
            Waits(
                broker=Backoff(base=1.0, cap=30.0),
                own_link=Backoff(base=0.5, cap=4.0),
                stable_after=30.0,
                hello_timeout=10.0,
                return_after=return_after,
            ),
            uniform=lambda _low, high: high,
            now=self.now,
        )
        self.actions: list[Action] = []

    @property
    def state(self) -> State:
        return self.machine.state

    def happens(self, *events: Event) -> list[Action]:
        for event in events:
            self.actions = self.machine.step(event, self.now)
        return self.actions

    def passes(self, seconds: float) -> list[Action]:
        """Let time pass, and the deadlines in it."""
        end = self.now + seconds
        self.actions = []
        while self.machine.deadline is not None and self.machine.deadline <= end:
            self.now = max(self.now, self.machine.deadline)
            self.happens(states.Elapsed())
        self.now = end
        return self.actions

    @property
    def wait(self) -> float:
        assert self.machine.deadline is not None
        return self.machine.deadline - self.now

    @property
    def kinds(self) -> str:
        return " ".join(type(action).__name__ for action in self.actions if not isinstance(action, Changed))

    def up(self) -> "Lab":
        self.happens(states.Started(), states.Dialled(source=HERE), states.Greeted())
        return self

    def in_state(self, state: State) -> "Lab":
        ways: dict[State, Callable[[], object]] = {
            State.DIAL: lambda: self.happens(states.Started()),
            State.HELLO: lambda: self.happens(states.Started(), states.Dialled(source=HERE)),
            State.UP: self.up,
            State.SUSPECT: lambda: self.up().happens(look(HERE)),
            State.CUT_OFF: lambda: self.up().happens(look(None)),
            State.BACKOFF: lambda: self.up().happens(down(Cause.CLOSED)),
            State.NO_ROUTE: lambda: self.happens(states.Started(), down(Cause.NO_ROUTE)),
            State.PARKED: lambda: self.happens(states.Started(), states.Dialled(source=HERE), refused(0x86)),
            State.STOPPED: lambda: self.up().happens(states.Left()),
        }
        ways[state]()
        assert self.state is state
        return self


EVENTS: dict[str, Event] = {
    "Dialled": states.Dialled(source=HERE),
    "Greeted": states.Greeted(),
    "Proven": states.Proven(),
    "Answered": states.Answered(),
    "Failed": down(Cause.CLOSED),
    "Looked, the same": look(HERE),
    "Looked, another": look(THERE),
    "Looked, no route": look(None),
    "Elapsed": states.Elapsed(),
    "Reloaded": states.Reloaded(),
    "Reachable": states.Reachable(),
    "Left": states.Left(),
}
STAY = ""
TABLE: dict[State, dict[str, str]] = {
    State.DIAL: {"Dialled": "HELLO", "Failed": "BACKOFF", "Looked, another": STAY, "Left": "STOPPED"},
    State.HELLO: {"Greeted": "UP", "Failed": "BACKOFF", "Looked, another": "DIAL Abort Dial", "Left": "STOPPED"},
    State.UP: {
        "Failed": "BACKOFF",
        "Looked, the same": "SUSPECT Probe",
        "Looked, another": "DIAL Abort Dial",
        "Looked, no route": "CUT_OFF",
        "Left": "STOPPED",
    },
    State.SUSPECT: {
        "Answered": "UP",
        "Failed": "BACKOFF",
        "Looked, another": "DIAL Abort Dial",
        "Looked, no route": "CUT_OFF",
        "Elapsed": "DIAL Abort Dial",
        "Left": "STOPPED",
    },
    State.CUT_OFF: {
        "Failed": "BACKOFF",
        "Looked, the same": "SUSPECT Probe",
        "Looked, another": "DIAL Abort Dial",
        "Elapsed": "NO_ROUTE Abort",
        "Left": "STOPPED",
    },
    State.BACKOFF: {"Elapsed": "DIAL Dial", "Reloaded": "DIAL Dial", "Left": "STOPPED"},
    State.NO_ROUTE: {"Elapsed": "DIAL Dial", "Reloaded": "DIAL Dial", "Left": "STOPPED"},
    State.PARKED: {"Elapsed": "DIAL Dial", "Reloaded": "DIAL Dial", "Left": "STOPPED"},
    State.STOPPED: {"Left": "STOPPED"},
}
"""What each event makes of each state, with what is to be done; those left out change nothing."""


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
@pytest.mark.parametrize("event", EVENTS)
def test_every_event_in_every_state_does_what_the_table_says(state: State, event: str) -> None:
    lab = Lab().in_state(state)
    if event == "Elapsed":
        lab.now = lab.machine.deadline or lab.now
    lab.happens(EVENTS[event])
    to, _, done = TABLE[state].get(event, STAY).partition(" ")
    assert lab.state is (State[to] if to else state)
    assert lab.kinds == done


@given(st.lists(st.tuples(st.sampled_from(list(EVENTS.values())), st.floats(0, 40)), max_size=60))
def test_whatever_happens_there_is_always_a_way_on(happenings: list[tuple[Event, float]]) -> None:
    lab = Lab(FIRST, SECOND)
    lab.happens(states.Started())
    for event, after in happenings:
        lab.now += after
        before = lab.state
        lab.happens(event)
        if before is State.STOPPED:
            assert lab.state is State.STOPPED
            assert lab.kinds == ""
        elif lab.state in states.WAITING:
            assert lab.machine.deadline is not None, "it waits for ever"
            assert lab.wait <= 60.0
        # An attempt that is given up is followed by another, or by a wait; nothing is dialled beside a link.
        assert lab.kinds in {"", "Dial", "Abort Dial", "Leave Dial", "Abort", "Probe", "Knock"}
        changes = [action for action in lab.actions if isinstance(action, Changed)]
        assert all(one.after is other.before for one, other in itertools.pairwise(changes))


# Faults and what follows.


def test_the_robots_own_link_waits_up_to_its_own_cap_and_the_broker_up_to_its() -> None:
    for cause, longest in ((Cause.CONNECT_TIMEOUT, 4.0), (Cause.NO_CONNACK, 30.0)):
        lab = Lab()
        lab.happens(states.Started())
        waits = []
        for _ in range(1_100):  # the exponent must not overflow
            lab.happens(down(cause))
            waits.append(lab.wait)
            lab.passes(lab.wait)
        assert waits[0] < 1.5
        assert max(waits) == waits[-1] == longest


def test_where_nothing_listens_no_wait_outlasts_half_of_the_outage() -> None:
    lab = Lab().up()
    began = lab.now
    lab.happens(down(Cause.CLOSED))
    lab.passes(lab.wait)
    for _ in range(100):
        lab.happens(down(Cause.REFUSED))
        assert lab.wait <= max(1.0, (lab.now - began) / 2)
        assert lab.wait <= 30.0
        lab.passes(lab.wait)


def test_waits_begin_anew_after_a_puback_or_a_while_and_not_before() -> None:
    for proven, lasts, expected in ((True, 0.0, 1.0), (False, 31.0, 1.0), (False, 5.0, 8.0)):
        lab = Lab()
        lab.happens(states.Started())
        for _ in range(3):
            lab.happens(down(Cause.NO_CONNACK))
            lab.passes(lab.wait)
        lab.happens(states.Dialled(source=HERE), states.Greeted())
        if proven:
            lab.happens(states.Proven())
        lab.passes(lasts)
        lab.happens(down(Cause.CLOSED))
        assert lab.wait == expected


def test_a_silent_broker_gets_more_time_for_its_connack() -> None:
    lab = Lab()
    times = []
    [_, dial] = lab.happens(states.Started())
    for _ in range(4):
        assert isinstance(dial, states.Dial)
        times.append(dial.hello_timeout)
        lab.happens(states.Dialled(source=HERE), down(Cause.NO_CONNACK))
        [_, dial] = lab.passes(lab.wait)
    assert times == [10.0, 20.0, 30.0, 30.0]


def test_an_address_that_changes_is_answered_at_once_and_counts_as_a_handoff() -> None:
    lab = Lab().up()
    lab.passes(100.0)
    lab.happens(look(THERE))
    assert lab.kinds == "Abort Dial"
    lab.passes(0.25)
    lab.happens(states.Dialled(source=THERE), states.Greeted())
    figures = lab.machine.history.figures(lab.now)
    assert (figures["handoffs"], figures["handoff_gap_p50"], figures["offline"]) == (1, 0.25, 0.2)
    assert figures["downs"] == {"address changed": 1}


def test_the_gap_of_a_handoff_begins_when_the_old_route_went() -> None:
    lab = Lab().up()
    lab.happens(look(None))
    lab.passes(2.0)
    lab.happens(look(THERE))
    lab.passes(0.25)
    lab.happens(states.Dialled(source=THERE), states.Greeted())
    assert lab.machine.history.figures(lab.now)["handoff_gap_p50"] == 2.25


@pytest.mark.parametrize("cause", [Cause.NO_ROUTE, Cause.CONNECT_TIMEOUT, Cause.REFUSED, Cause.REJECTED])
def test_a_week_without_a_link_is_told_in_a_few_lines_a_day(cause: Cause) -> None:
    lab = Lab(FIRST, SECOND).up()
    failure = refused(0x86) if cause is Cause.REJECTED else down(cause)
    told = []
    end = lab.now + 7 * 86_400
    while lab.now < end:
        [change] = [action for action in lab.happens(failure) if isinstance(action, Changed)]
        if change.is_news:
            told.append(lab.now)
        lab.passes(lab.wait + 3.0)
    assert 7 * 24 < len(told) < 7 * 24 * 2 + 30
    assert max(later - earlier for earlier, later in itertools.pairwise(told)) < 3700


def test_another_failure_is_told_at_once_and_after_a_link_all_are() -> None:
    lab = Lab()

    def is_told(event: Event) -> bool:
        [change] = [action for action in lab.happens(event) if isinstance(action, Changed)]
        lab.passes(lab.wait)
        return change.is_news

    lab.happens(states.Started())
    assert is_told(down(Cause.REFUSED))
    assert not is_told(down(Cause.REFUSED))
    assert is_told(down(Cause.NO_ROUTE))
    lab.happens(states.Dialled(source=HERE), states.Greeted())
    assert is_told(down(Cause.CLOSED))
    assert is_told(down(Cause.REFUSED))


def test_a_route_that_is_back_in_time_costs_a_probe_only() -> None:
    lab = Lab().up()
    lab.happens(look(None))
    lab.passes(2.0)
    lab.happens(look(HERE))
    assert lab.kinds == "Probe"
    lab.happens(states.Answered())
    assert lab.state is State.UP
    assert lab.machine.deadline is None
    assert lab.machine.history.downs == {}


def test_without_a_route_for_a_while_the_link_is_given_up_and_a_route_ends_the_wait() -> None:
    lab = Lab().up()
    lab.happens(look(None))
    lab.passes(3.0)
    assert lab.state is State.NO_ROUTE
    assert lab.machine.cause == "no route for 3 s"
    for _ in range(8):
        lab.passes(lab.wait)
        lab.happens(down(Cause.NO_ROUTE))
    assert lab.wait == 4.0
    lab.happens(look(THERE))
    assert lab.wait == 0.25
    lab.passes(0.25)
    assert lab.state is State.DIAL


def test_a_network_event_ends_the_wait_of_the_own_link_but_not_that_for_a_broker_which_refuses() -> None:
    for cause, early in ((Cause.CONNECT_TIMEOUT, True), (Cause.NO_CONNACK, False)):
        lab = Lab().up()
        lab.happens(down(cause))
        for _ in range(5):
            lab.passes(lab.wait)
            lab.happens(states.Dialled(source=HERE), down(cause))
        wait = lab.wait
        lab.happens(look(HERE))
        assert lab.wait == (0.25 if early else wait)
        lab.happens(look(THERE))  # another network, perhaps with a way to another broker
        assert lab.wait == 0.25


def test_a_dial_that_is_old_is_begun_again_when_the_network_changes_and_a_young_one_is_not() -> None:
    lab = Lab()
    lab.happens(states.Started(), look(HERE))
    assert lab.kinds == ""
    lab.passes(1.0)
    lab.happens(look(HERE))
    assert lab.kinds == "Abort Dial"


def test_a_probe_without_an_answer_is_a_false_alarm_if_the_next_attempt_succeeds_from_the_same_address() -> None:
    lab = Lab().up()
    lab.happens(look(HERE))
    lab.passes(1.0)
    assert lab.kinds == "Abort Dial"
    lab.happens(states.Dialled(source=HERE), states.Greeted())
    assert lab.machine.history.false_alarms == 1


def test_behind_a_queue_there_is_no_probe() -> None:
    lab = Lab().up()
    busy = states.Looked(source=HERE, answer_within=None)
    lab.happens(busy)
    assert (lab.state, lab.kinds) == (State.UP, "")
    lab.happens(look(None), busy)
    assert (lab.state, lab.machine.deadline) == (State.UP, None)


def test_probes_keep_a_distance_from_each_other() -> None:
    lab = Lab().up()
    lab.happens(look(HERE), states.Answered())
    lab.happens(look(HERE))
    assert lab.kinds == ""
    lab.passes(1.0)
    lab.happens(look(HERE))
    assert lab.kinds == "Probe"


# What brokers say.


@pytest.mark.parametrize("code", [0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C])
def test_a_refusal_that_a_person_must_mend_parks_the_link_which_still_tries_again(code: int) -> None:
    lab = Lab()
    lab.happens(states.Started(), states.Dialled(source=HERE), refused(code))
    assert lab.state is State.PARKED
    assert lab.wait == 30.0
    lab.happens(look(THERE))
    assert lab.wait == 30.0
    lab.happens(states.Reloaded())
    assert lab.state is State.DIAL


@pytest.mark.parametrize("code", [0x88, 0x89, 0x97, 0x9F])
def test_a_busy_broker_gets_growing_waits(code: int) -> None:
    lab = Lab()
    lab.happens(states.Started())
    waits = []
    for _ in range(6):
        lab.happens(states.Dialled(source=HERE), refused(code))
        waits.append(lab.wait)
        lab.passes(lab.wait)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0]


def test_a_session_that_another_client_took_over_is_not_taken_back_soon() -> None:
    lab = Lab().up()
    lab.happens(down(Cause.DISCONNECTED, 0x8E))
    assert lab.wait >= 30.0


def test_a_server_reference_is_followed_only_where_it_is_allowed_and_not_round_in_circles() -> None:
    lab = Lab(FIRST, referrals=["*.fleet.example"])
    lab.happens(states.Started())
    lab.happens(down(Cause.REJECTED, 0x9C, reference="evil.example b.example:1"))
    assert lab.state is State.BACKOFF
    lab.passes(lab.wait)
    names = [f"n{number}.fleet.example:2000" for number in range(5)]
    followed = []
    for name in names:
        lab.happens(states.Dialled(source=HERE), down(Cause.REJECTED, 0x9D, reference=name))
        followed.append(str(lab.machine.servers.current))
        if lab.state is State.BACKOFF:
            break
    assert followed == [*names[:3], str(FIRST)]


def test_brokers_that_take_the_session_and_then_refer_to_each_other_do_not_send_it_round_in_circles() -> None:
    lab = Lab(FIRST, referrals=["b.example"]).up()
    refers = {FIRST: "b.example:1883", SECOND: "a.example:1883"}
    for _ in range(3):
        lab.happens(states.Proven(), down(Cause.DISCONNECTED, 0x9C, reference=refers[lab.machine.servers.current]))
        assert lab.state is State.DIAL
        lab.happens(states.Dialled(source=HERE), states.Greeted())
    reference = refers[lab.machine.servers.current]
    lab.happens(states.Proven(), down(Cause.DISCONNECTED, 0x9C, reference=reference))
    assert lab.state is State.BACKOFF
    lab.passes(lab.wait)
    lab.happens(states.Dialled(source=HERE), states.Greeted())
    lab.passes(31.0)  # now it has kept the link: that it refers elsewhere is no circle
    lab.happens(down(Cause.DISCONNECTED, 0x9C, reference=reference))
    assert lab.state is State.DIAL


def test_a_broker_that_refers_to_one_that_is_away_does_not_keep_from_the_next_in_the_list() -> None:
    lab = Lab(FIRST, SECOND, referrals=["c.example"])
    lab.happens(states.Started())
    tried, waits = [], []
    for _ in range(4):
        tried.append(lab.machine.servers.current.host)
        if tried[-1] == "a.example":
            lab.happens(states.Dialled(source=HERE), down(Cause.REJECTED, 0x9C, reference="c.example"))
            tried.append(lab.machine.servers.current.host)
        lab.happens(down(Cause.NO_CONNACK))
        waits.append(lab.wait)
        lab.passes(lab.wait)
    assert tried == ["a.example", "c.example", "b.example"] * 2
    assert waits == [1.0, 1.0, 2.0, 2.0]


# Several brokers.


def test_several_brokers_are_tried_in_order_and_waits_grow_by_rounds() -> None:
    lab = Lab(FIRST, SECOND)
    tried, waits = [], []
    lab.happens(states.Started())
    for _ in range(6):
        tried.append(lab.machine.servers.current)
        lab.happens(down(Cause.NO_CONNACK))
        waits.append(lab.wait)
        lab.passes(lab.wait)
    assert tried == [FIRST, SECOND] * 3
    assert waits == [1.0, 1.0, 2.0, 2.0, 4.0, 4.0]


def test_after_a_loss_the_broker_that_has_the_session_is_tried_first() -> None:
    lab = Lab(FIRST, SECOND)
    lab.happens(states.Started(), down(Cause.REFUSED))
    lab.passes(lab.wait)
    lab.happens(states.Dialled(source=HERE), states.Greeted())
    assert lab.machine.servers.current == SECOND
    tried = []
    for _ in range(4):
        lab.happens(down(Cause.CLOSED))
        tried.append(lab.machine.servers.current)
        lab.passes(lab.wait)
    assert tried == [SECOND, FIRST, FIRST, SECOND]


def test_the_preferred_broker_is_returned_to_once_it_takes_connections_and_more_and_more_rarely_in_vain() -> None:
    lab = Lab(FIRST, SECOND, return_after=100.0)
    lab.happens(states.Started(), down(Cause.REFUSED))
    lab.passes(lab.wait)
    waits = []
    for _ in range(7):
        lab.happens(states.Dialled(source=HERE), states.Greeted(), states.Proven())
        assert lab.machine.servers.current == SECOND
        waits.append(lab.wait)
        lab.passes(lab.wait)
        assert [action for action in lab.actions if isinstance(action, states.Knock)] == [states.Knock(server=FIRST)]
        lab.happens(states.Reachable())
        assert lab.kinds == "Leave Dial"
        assert lab.machine.servers.current == FIRST
        lab.happens(states.Dialled(source=HERE), refused(0x88))
        lab.passes(lab.wait)
    assert waits == [150.0, 300.0, 600.0, 1200.0, 1800.0, 1800.0, 1800.0]
    assert lab.machine.history.downs[Cause.RETURN] == 7


def test_a_probe_does_not_forget_when_the_preferred_broker_is_to_be_looked_for() -> None:
    lab = Lab(FIRST, SECOND, return_after=100.0)
    lab.happens(states.Started(), down(Cause.REFUSED))
    lab.passes(lab.wait)
    lab.happens(states.Dialled(source=HERE), states.Greeted())
    planned = lab.machine.deadline
    lab.happens(look(HERE), states.Answered())
    assert lab.machine.deadline == planned


def test_one_broker_that_refuses_for_good_does_not_park_the_others() -> None:
    lab = Lab(FIRST, SECOND)
    lab.happens(states.Started(), states.Dialled(source=HERE), refused(0x86))
    assert lab.state is State.BACKOFF
    lab.passes(lab.wait)
    lab.happens(states.Dialled(source=HERE), refused(0x87))
    assert lab.state is State.PARKED


def test_the_strategy_that_is_set_is_the_one_that_is_used() -> None:
    fixed = Backoff(strategy=Strategy.FIXED, base=7.0)
    machine = Machine(
        Servers([FIRST]),
        Waits(broker=fixed, own_link=fixed, stable_after=30.0, hello_timeout=10.0, return_after=0.0),
        uniform=lambda _low, high: high,
        now=0.0,
    )
    machine.step(states.Started(), 0.0)
    for _ in range(3):
        machine.step(down(Cause.REFUSED), 0.0)
        assert machine.deadline == 7.0
        machine.step(states.Reloaded(), 0.0)
