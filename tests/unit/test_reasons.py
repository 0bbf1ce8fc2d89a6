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


@pytest.mark.parametrize(("code", "same"), [(1, 0x84), (2, 0x85), (3, 0x88), (4, 0x86), (5, 0x87)])
def test_a_return_code_of_mqtt_3_1_1_has_its_reason_code(code: int, same: int) -> None:
    assert reasons.of_return_code(code) == same
    assert reasons.describe_return_code(code).startswith(f"return code {code}, ")
    assert reasons.needs_a_person(same) is (code != 3)


@pytest.mark.parametrize("code", [6, 64, 127])
def test_a_return_code_that_the_standard_does_not_list_is_a_refusal_that_may_pass(code: int) -> None:
    assert not reasons.needs_a_person(reasons.of_return_code(code))
    assert reasons.of_return_code(code) >= reasons.GRANTED_BELOW
    assert "does not know" in reasons.describe_return_code(code)
