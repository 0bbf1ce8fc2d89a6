import pytest

from agent import reasons
from agent.reasons import Verdict


@pytest.mark.parametrize("code", [0x00, 0x10])
def test_codes_below_0x80_are_delivered(code: int) -> None:
    assert reasons.verdict(code) is Verdict.DELIVERED


@pytest.mark.parametrize("code", [0x80, 0x83, 0x97])
def test_passing_troubles_are_tried_again(code: int) -> None:
    assert reasons.verdict(code) is Verdict.LATER


@pytest.mark.parametrize("code", [0x87, 0x90, 0x95, 0x99])
def test_refusals_for_good_go_to_quarantine(code: int) -> None:
    assert reasons.verdict(code) is Verdict.QUARANTINE


@pytest.mark.parametrize("code", range(256))
def test_every_code_has_a_verdict_and_a_description(code: int) -> None:
    assert (reasons.verdict(code) is Verdict.DELIVERED) == (code < 0x80)
    assert reasons.describe(code).startswith(f"0x{code:02X} ")


def test_bad_credentials_need_a_person_and_a_busy_server_does_not() -> None:
    assert reasons.needs_a_person(0x86)
    assert not reasons.needs_a_person(0x89)
