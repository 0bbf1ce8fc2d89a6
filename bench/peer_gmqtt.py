"""python -m bench.peer_gmqtt PORT RECORDS [--encode]: stock gmqtt, from memory.

Its `publish` does not wait: beyond the broker's Receive Maximum it raises, so the limit is kept here, by what its own
queue holds. With --encode each record is handed over as a dict, which gmqtt makes JSON of; else as ready-made bytes.
"""

import argparse
import asyncio
import sys
import time

import gmqtt
from gmqtt.storage import PersistentStorage

from bench.records import DEVICE, FIELDS, TOPIC, payload

_MOST_IN_FLIGHT = 1_000


class _Queue(PersistentStorage):  # type: ignore[misc] # gmqtt has no types
    """gmqtt's own queue of what is not acknowledged; `moved` is set when it has become shorter."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = asyncio.Event()

    def remove_message_by_mid(self, mid: int) -> None:
        super().remove_message_by_mid(mid)
        self.moved.set()

    def __len__(self) -> int:
        return len(self._messages)

    def __bool__(self) -> bool:
        return True  # gmqtt asks `storage or PersistentStorage()`


async def _main(port: int, records: int, *, encode: bool) -> None:
    queue = _Queue()
    client = gmqtt.Client(DEVICE, clean_session=True, persistent_storage=queue)
    connected = asyncio.Event()
    limit = _MOST_IN_FLIGHT

    def on_connect(_client: gmqtt.Client, _flags: int, _code: int, properties: dict[str, list[int]]) -> None:
        nonlocal limit
        limit = min(limit, properties.get("receive_maximum", [65_535])[0] - 1)
        connected.set()

    client.on_connect = on_connect
    await client.connect("127.0.0.1", port)
    await connected.wait()
    print("ready", flush=True)
    sys.stdin.readline()
    for seq in range(1, records + 1):
        while len(queue) >= limit:
            queue.moved.clear()
            await queue.moved.wait()
        ts = time.time_ns() // 1_000_000
        body = {"ts": ts, "epoch": 1, "seq": seq, **FIELDS} if encode else payload(ts, seq)
        client.publish(TOPIC, body, qos=1, content_type="application/json")
    await queue.wait_empty()
    print("done", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await client.disconnect()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("records", type=int)
    parser.add_argument("--encode", action="store_true")
    arguments = parser.parse_args()
    asyncio.run(_main(arguments.port, arguments.records, encode=arguments.encode))
