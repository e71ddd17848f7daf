from __future__ import annotations

import asyncio
import socket

import uvloop

from server.http.accepting import Acceptor

CONNECTIONS = 50


class Counting(asyncio.Protocol):
    made = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Counting.made += 1

    def data_received(self, data: bytes) -> None:
        """Take it."""


async def turns_needed(is_helped: bool) -> int:
    """Return how many turns of the loop a server needs to take connections that wait."""
    Counting.made = 0
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Counting, "127.0.0.1", 0)
    (listening,) = server.sockets
    acceptor = Acceptor(listening.fileno(), Counting) if is_helped else None
    clients = [socket.create_connection(listening.getsockname()) for _ in range(CONNECTIONS)]
    turns = 0
    while Counting.made < CONNECTIONS:
        await asyncio.sleep(0)
        turns += 1
        assert turns < 100 * CONNECTIONS
    if acceptor is not None:
        acceptor.close()
    for client in clients:
        client.close()
    server.close()
    await server.wait_closed()
    return turns


def test_all_connections_that_wait_are_taken_within_a_few_turns() -> None:
    helped, alone = (uvloop.run(turns_needed(is_helped)) for is_helped in (True, False))
    assert helped < 10 < CONNECTIONS / 2 < alone


def test_a_closed_acceptor_takes_no_more() -> None:
    async def taken() -> int:
        Counting.made = 0
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            acceptor = Acceptor(listening.fileno(), Counting)
            acceptor.close()
            with socket.create_connection(listening.getsockname()):
                for _ in range(20):
                    await asyncio.sleep(0)
            return Counting.made

    assert uvloop.run(taken()) == 0
