import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from agent import collect as module
from agent.collect import Cadence, collect
from agent.errors import AbsentError, ReadingError
from agent.model import Fields, Record, Sample, Stream


class Inlet:
    """Takes samples, and says when it has got so many."""

    def __init__(self, enough: int) -> None:
        self.samples: list[Sample] = []
        self.has_room = asyncio.Event()
        self.has_room.set()
        self.full = asyncio.Event()
        self._enough = enough

    async def room(self) -> None:
        await self.has_room.wait()

    def accept(self, sample: Sample) -> Record:
        self.samples.append(sample)
        if len(self.samples) >= self._enough:
            self.full.set()
        number = len(self.samples)
        stream = Stream(name=sample.stream)
        return Record(row=number, stream=stream, epoch=1, seq=number, ts=sample.ts, taken=sample.taken, tail=b"}")


class Scripted:
    """A source whose readings are given; the last one is repeated. `played` is set once all have been read, and one."""

    def __init__(self, *readings: Fields | Exception) -> None:
        self.reads = 0
        self.played = asyncio.Event()
        self._readings = readings
        self._loop = asyncio.get_running_loop()

    def read(self) -> Fields:
        reading = self._readings[min(self.reads, len(self._readings) - 1)]
        self.reads += 1
        if self.reads > len(self._readings):
            self._loop.call_soon_threadsafe(self.played.set)
        if isinstance(reading, Exception):
            raise reading
        return reading


@asynccontextmanager
async def collecting(source: Scripted, inlet: Inlet) -> AsyncIterator[None]:
    """Collect every 10 ms; the block has 30 s."""
    async with asyncio.timeout(30):
        task = asyncio.get_running_loop().create_task(collect(source, inlet, stream="cpu", cadence=Cadence(0.01)))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_each_reading_becomes_a_sample_of_its_stream_with_both_times() -> None:
    inlet = Inlet(enough=3)
    async with collecting(Scripted({"a": 1}, {"a": 2}, {"a": 3}), inlet):
        await inlet.full.wait()
    assert [(sample.stream, sample.fields) for sample in inlet.samples[:3]] == [
        ("cpu", {"a": 1}),
        ("cpu", {"a": 2}),
        ("cpu", {"a": 3}),
    ]
    assert inlet.samples[0].ts > 1_600_000_000_000
    assert inlet.samples[0].taken < inlet.samples[1].taken < inlet.samples[2].taken


async def test_a_reading_that_fails_costs_that_reading_only(caplog: pytest.LogCaptureFixture) -> None:
    inlet = Inlet(enough=2)
    caplog.set_level(logging.INFO, logger="agent")
    failure = ReadingError("cannot read cpu: gone")
    async with collecting(Scripted({"a": 1}, failure, failure, failure, {"a": 2}), inlet):
        await inlet.full.wait()
    assert [sample.fields for sample in inlet.samples[:2]] == [{"a": 1}, {"a": 2}]
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
    assert said == ["cpu: cannot read cpu: gone", "cpu: can be read again"]


async def test_the_same_failure_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    source = Scripted(*[ReadingError("cannot read cpu: gone")] * 4)
    async with collecting(source, Inlet(enough=1)):
        await source.played.wait()
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1


async def test_absent_hardware_is_silence_but_for_one_line_at_debug(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_AGAIN_AFTER", 0.01)
    caplog.set_level(logging.DEBUG, logger="agent")
    source = Scripted(*[AbsentError("no sensor")] * 4)
    inlet = Inlet(enough=1)
    async with collecting(source, inlet):
        await source.played.wait()
    about = [(record.levelno, record.getMessage()) for record in caplog.records if "sensor" in record.getMessage()]
    assert about == [(logging.DEBUG, "cpu: not on this machine: no sensor")]
    assert inlet.samples == []


async def test_absent_hardware_that_is_plugged_in_later_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_AGAIN_AFTER", 0.01)
    inlet = Inlet(enough=1)
    async with collecting(Scripted(AbsentError("no sensor"), AbsentError("no sensor"), {"a": 1}), inlet):
        await inlet.full.wait()
    assert inlet.samples[0].fields == {"a": 1}


async def test_absent_hardware_is_looked_for_rarely() -> None:
    absent = Scripted(AbsentError("no sensor"))
    inlet = Inlet(enough=20)
    async with collecting(absent, Inlet(enough=1)), collecting(Scripted({"a": 1}), inlet):
        await inlet.full.wait()
    assert absent.reads == 1


async def test_nothing_is_read_while_there_is_no_room() -> None:
    inlet, free = Inlet(enough=1), Inlet(enough=10)
    inlet.has_room.clear()
    source = Scripted({"a": 1})
    async with collecting(source, inlet):
        async with collecting(Scripted({"b": 1}), free):
            await free.full.wait()
        assert source.reads == 0
        inlet.has_room.set()
        await inlet.full.wait()


async def test_a_reading_without_fields_is_no_sample() -> None:
    inlet = Inlet(enough=1)
    async with collecting(Scripted({}, {}, {"a": 1}), inlet):
        await inlet.full.wait()
    assert inlet.samples[0].fields == {"a": 1}
