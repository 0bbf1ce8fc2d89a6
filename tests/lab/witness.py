"""python -m tests.lab.witness PORT: tells each message that arrives at the broker of 127.0.0.1, and when.

A line for each: the monotonic time in nanoseconds, the topic, the payload. `subscribed` says that it sees all from then
on; after the broker's end it is back as soon as the broker is.
"""

import asyncio
import contextlib
import sys
import time

from tests.support.codec import Stream, encode
from tests.support.packets import Connect, Filter, Publish, Suback, Subscribe

_AGAIN = 0.005


async def _watch(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(encode(Connect(client_id="witness", clean_start=True)))
        writer.write(encode(Subscribe(packet_id=1, filters=(Filter(topic="device/#"),))))
        stream = Stream()
        while data := await reader.read(1 << 20):
            now = time.monotonic_ns()
            for packet, _ in stream.feed(data):
                match packet:
                    case Publish():
                        print(now, packet.topic, packet.payload.decode())  # noqa: T201  what it is for
                    case Suback():
                        print("subscribed")  # noqa: T201  as above
            sys.stdout.flush()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _main(port: int) -> None:
    while True:
        with contextlib.suppress(OSError):
            await _watch(port)
        await asyncio.sleep(_AGAIN)


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
