"""python -m tests.lab.peers gmqtt|paho|aiomqtt HOST PORT NAME KEEP_ALIVE: another client, as its documentation has it.

Two messages a second with QoS 1, numbered from 1, and a session that outlives the connection. It tells in lines what it
does: `sent N` (handed to the library, or to the loop around it), `up`, `down`.

- gmqtt: `connect` once, then `publish`; what that refuses is tried again. Reconnecting is its own.
- Paho: `connect`, `loop_start`, `publish`; reconnecting is its own.
- aiomqtt: the loop of its documentation, 5 s after each MqttError; a message is sent again until it is acknowledged.
"""

import asyncio
import contextlib
import json
import logging
import sys
from collections import deque
from collections.abc import AsyncIterator

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

_INTERVAL = 0.5
_EXPIRY = 86_400
_AIOMQTT_WAIT = 5.0


def _tell(*words: object) -> None:
    print(*words, flush=True)  # noqa: T201  what it is for


async def _numbers() -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    start, number = loop.time(), 0
    while True:
        number += 1
        yield number
        await asyncio.sleep(max(0.0, start + number * _INTERVAL - loop.time()))


def _body(number: int) -> bytes:
    return json.dumps({"n": number}).encode()


async def _gmqtt(host: str, port: int, name: str, keep_alive: int) -> None:
    import gmqtt  # noqa: PLC0415  each imports its own library only

    client = gmqtt.Client(name, clean_session=False, session_expiry_interval=_EXPIRY)
    client.on_connect = lambda *_: _tell("up")
    client.on_disconnect = lambda *_: _tell("down")
    await client.connect(host, port, keepalive=keep_alive)
    waiting: deque[int] = deque()
    async for number in _numbers():
        waiting.append(number)
        _tell("sent", number)
        # Its publish() does not wait: beyond the broker's Receive Maximum it raises.
        with contextlib.suppress(OverflowError):
            while waiting:
                client.publish(_topic(name), _body(waiting[0]), qos=1)
                waiting.popleft()


async def _paho(host: str, port: int, name: str, keep_alive: int) -> None:
    client = mqtt.Client(CallbackAPIVersion.VERSION2, name, protocol=mqtt.MQTTv5)
    client.on_connect = lambda *_: _tell("up")
    client.on_disconnect = lambda *_: _tell("down")
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = _EXPIRY
    client.connect(host, port, keepalive=keep_alive, clean_start=False, properties=properties)
    client.loop_start()
    async for number in _numbers():
        _tell("sent", number)
        client.publish(_topic(name), _body(number), qos=1)


async def _aiomqtt(host: str, port: int, name: str, keep_alive: int) -> None:
    import aiomqtt  # noqa: PLC0415  as above

    waiting: deque[int] = deque()
    more = asyncio.Event()

    async def produce() -> None:
        async for number in _numbers():
            waiting.append(number)
            _tell("sent", number)
            more.set()

    async def deliver() -> None:
        client = aiomqtt.Client(host, port, identifier=name, keepalive=keep_alive, clean_session=False)
        while True:
            try:
                async with client:
                    _tell("up")
                    while True:
                        while waiting:
                            await client.publish(_topic(name), _body(waiting[0]), qos=1)
                            waiting.popleft()
                        more.clear()
                        await more.wait()
            except aiomqtt.MqttError:
                _tell("down")
                await asyncio.sleep(_AIOMQTT_WAIT)

    async with asyncio.TaskGroup() as group:
        group.create_task(produce())
        group.create_task(deliver())


def _topic(name: str) -> str:
    return f"device/{name}/telemetry/lab"


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    _which, _host, _port, _name, _keep_alive = sys.argv[1:]
    _run = {"gmqtt": _gmqtt, "paho": _paho, "aiomqtt": _aiomqtt}[_which]
    asyncio.run(_run(_host, int(_port), _name, int(_keep_alive)))
