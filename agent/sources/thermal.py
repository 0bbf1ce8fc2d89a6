from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psutil

from agent.errors import AbsentError
from agent.model import Value
from agent.sources.source import Field, Source, slug


class Thermal(Source):
    """Temperatures and fans (the kernel's hwmon/sysfs-interface and driver-api/thermal)."""

    fields = (
        Field("{sensor}_celsius", "°C", "temperature, by the chip's name and the sensor's label"),
        Field("{fan}_rpm", "1/min", "speed of a fan, by the chip's name and the fan's label"),
    )
    failures = (psutil.Error,)

    def _read(self) -> dict[str, Value]:
        values: dict[str, Value] = {
            **{name: round(value, 1) for name, value in _named(psutil.sensors_temperatures(), "celsius")},
            **dict(_named(psutil.sensors_fans(), "rpm")),
        }
        if not values:
            raise AbsentError("no temperature sensor and no fan below /sys/class/hwmon and /sys/class/thermal")
        return values


def _named(chips: Mapping[str, Sequence[Any]], quantity: str) -> Iterator[tuple[str, float]]:
    """Iterate over the sensors by a name that none of the others has."""
    given: dict[str, int] = {}
    for chip, sensors in chips.items():
        for sensor in sensors:
            name = slug(f"{chip} {sensor.label}")
            number = given[name] = given.get(name, 0) + 1
            yield f"{name}_{number}_{quantity}" if number > 1 else f"{name}_{quantity}", sensor.current
