"""A broker that sends more than is taken: the connection reads no further, and nothing is lost."""

import asyncio

from agent.link.opening import Hello, open_session
from agent.model import Inbound, Server
from tests.support.scripted import ScriptedBroker

SENT = 4_000


async def test_what_is_not_taken_stays_with_the_broker_until_it_is(scripted: ScriptedBroker) -> None:
    hello = Hello(server=Server(host="127.0.0.1", port=scripted.port), client_id="robot")
    async with open_session(hello) as session:
        for number in range(SENT):
            scripted.deliver("t", b"%d" % number + b"." * 500)
        async with asyncio.timeout(10):
            while session.inbound.qsize() < 500:  # noqa: ASYNC110  the loop has to turn
                await asyncio.sleep(0)
        for _ in range(1_000):  # turns of the loop in which it could read more
            await asyncio.sleep(0)
        assert session.inbound.qsize() < 1_000
        async with asyncio.timeout(30):
            for number in range(SENT):
                message = await session.inbound.get()
                assert isinstance(message, Inbound)
                assert int(message.payload.rstrip(b".")) == number
                session.acknowledge(message)
        assert not session.ended.done()


async def test_a_link_whose_messages_nobody_takes_can_be_ended(scripted: ScriptedBroker) -> None:
    hello = Hello(server=Server(host="127.0.0.1", port=scripted.port), client_id="robot")
    async with asyncio.timeout(10):
        async with open_session(hello) as session:
            for _ in range(SENT):
                scripted.deliver("t", b"." * 500)
            while session.inbound.qsize() < 500:  # noqa: ASYNC110  the loop has to turn
                await asyncio.sleep(0)
        await scripted.wait_for(lambda: scripted.connections[0].closed is not None)
