"""python -m bench.ground: how many records a second `roamd ground` stores, from a broker's backlog.

50 streams of 10 devices. The time runs from the first record in the file to the last.
"""

import argparse
import asyncio
import contextlib
import io
import json
import signal
import tempfile
import time
from pathlib import Path

from agent.model import Message
from tests.support.ground_process import GroundProcess, client
from tests.support.mosquitto import Mosquitto

_DEVICES, _STREAMS = 10, 5
_WINDOW = 500


def _messages(count: int, in_array: int) -> list[Message]:
    messages, seqs = [], dict.fromkeys(range(_DEVICES * _STREAMS), 0)
    for number in range(count // in_array):
        key = number % len(seqs)
        first = seqs[key] + 1
        seqs[key] += in_array
        records = [
            {"ts": 1763870000000 + seq, "epoch": 17, "seq": seq, "ax": 0.12345, "ay": 1.5, "az": 9.81, "celsius": 21.5}
            for seq in range(first, first + in_array)
        ]
        topic = f"device/robot-{key % _DEVICES}/telemetry/stream-{key // _DEVICES}"
        body = json.dumps(records[0] if in_array == 1 else records).encode()
        messages.append(Message(topic=topic if in_array == 1 else f"{topic}/backfill", payload=body))
    return messages


async def _measure(count: int, in_array: int, in_flight: int, folder: Path) -> str:
    async with (
        Mosquitto(folder / "broker", extra=[f"max_inflight_messages {in_flight}"]) as broker,
        GroundProcess(broker.url, folder / "ground.db") as ground,
    ):
        ground.child.signal(signal.SIGTERM)
        await ground.child.wait()
        messages = _messages(count, in_array)
        async with client(broker.port) as session:
            for start in range(0, len(messages), _WINDOW):
                await asyncio.gather(*map(session.submit, messages[start : start + _WINDOW]))
        await ground.start()
        query = "SELECT coalesce(sum(records), 0) FROM stream"
        await ground.until(lambda g: g.one(query) > 0)
        already, began = ground.one(query), time.monotonic()
        await ground.until(lambda g: g.one(query) == count, within=300)
        seconds = time.monotonic() - began
        assert ground.one("SELECT count(*) FROM record") == count
    what = "records alone" if in_array == 1 else f"arrays of {in_array}"
    return f"{what}, {in_flight} in flight: {(count - already) / seconds:,.0f} records/s ({count:,} in {seconds:.1f} s)"


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.ground", description=__doc__)
    parser.add_argument("--records", type=int, default=50_000, help="in the first cases; ten times that in the last")
    records = parser.parse_args().records
    for count, in_array, in_flight in ((records, 1, 20), (records, 1, 1000), (10 * records, 100, 20)):
        with tempfile.TemporaryDirectory(prefix="roamd-bench-", dir="/var/tmp") as folder:
            with contextlib.redirect_stdout(io.StringIO()):  # the logs of the processes
                told = asyncio.run(_measure(count, in_array, in_flight, Path(folder)))
            print(told)


if __name__ == "__main__":
    main()
