"""The agent in a link's faults, with generous limits; `./dev lab` plays them all and often, and shows the figures."""

from pathlib import Path

from tests.lab.contenders import AGENT, CONTENDERS
from tests.lab.faults import Lab
from tests.lab.matrix import CASES
from tests.lab.measure import Clients, Figures, measure

ROAMD = [Clients(contender=CONTENDERS[AGENT], count=2)]


async def play(lab: Lab, name: str, tmp_path: Path) -> list[Figures]:
    figures = await measure(lab, CASES[name], ROAMD, tmp_path, patience=30.0)
    assert [one.lost for one in figures] == [0, 0]
    assert all(one.sent for one in figures)
    return figures


def in_time(figures: list[Figures], *, within: float) -> None:
    assert max(one.next for one in figures) <= within, f"not acknowledged again within {within} s: {figures}"


async def test_after_a_handoff_to_another_address_all_goes_on_and_nothing_is_lost(lab: Lab, tmp_path: Path) -> None:
    in_time(await play(lab, "handoff-0", tmp_path), within=5.0)


async def test_after_a_black_hole_all_goes_on_and_nothing_is_lost(lab: Lab, tmp_path: Path) -> None:
    in_time(await play(lab, "black-hole-5", tmp_path), within=8.0)


async def test_after_a_restart_of_the_broker_without_its_sessions_nothing_is_lost(lab: Lab, tmp_path: Path) -> None:
    figures = await play(lab, "restart-1", tmp_path)
    in_time(figures, within=8.0)
    assert all(one.disconnects for one in figures)


async def test_after_an_interface_was_down_all_goes_on_and_nothing_is_lost(lab: Lab, tmp_path: Path) -> None:
    in_time(await play(lab, "admin-down-10", tmp_path), within=8.0)
