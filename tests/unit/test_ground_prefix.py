"""Where devices stand among the topics."""

import pytest

from agent.ground.prefix import Prefix

DEVICES = Prefix.parse("device/+")


def test_the_plus_is_the_name_of_the_device() -> None:
    assert DEVICES.split("device/rover-7/telemetry/imu/backfill") == ("rover-7", ["telemetry", "imu", "backfill"])
    assert DEVICES.of("rover-7") == "device/rover-7"
    for topic in ("device/rover-7", "devices/rover-7/status", "x/device/rover-7/status", ""):
        assert DEVICES.split(topic) is None


def test_several_plus_make_one_name_and_none_makes_the_last_level_one() -> None:
    sites = Prefix.parse("site/+/robot/+")
    assert sites.split("site/a/robot/b/status") == ("a/b", ["status"])
    assert sites.of("a/b") == "site/a/robot/b"
    one = Prefix.parse("robots/rover-7")
    assert one.split("robots/rover-7/status") == ("rover-7", ["status"])
    assert one.of("rover-7") == "robots/rover-7"


@pytest.mark.parametrize("text", ["", "/", "device/", "device//+", "device/#", "device/a+", "$share/g/device/+"])
def test_what_is_no_prefix_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no prefix"):
        Prefix.parse(text)


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "a+", "x" * 300, "a\0"])
@pytest.mark.parametrize("prefix", [DEVICES, Prefix.parse("robots/rover-7")])
def test_what_is_no_device_is_refused(prefix: Prefix, name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a device"):
        prefix.of(name)


def test_a_share_is_of_all_that_is_not_retained() -> None:
    shared, alone = set(DEVICES.filters("g")), set(DEVICES.filters(None))
    assert shared & alone == {"device/+/status", "device/+/state"}
    assert {one.removeprefix("$share/g/") for one in shared} == alone
    assert "$share/g/device/+/telemetry/#" in shared
