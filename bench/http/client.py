"""The client, a process of its own: closed loops over connections that stay open.

Started with a port. It reads requests as base64, one a line, to an empty line; then lines of two
numbers, connections and requests, and says when so many have been answered.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import sys

import uvloop

from bench.peers.connection import Connection
from bench.peers.process import HOST


async def _ask(port: int) -> None:
    lines = iter(sys.stdin.buffer.readline, b"\n")
    requests = itertools.cycle([base64.b64decode(line) for line in lines])
    loop = asyncio.get_running_loop()
    pool: list[Connection] = []
    while asked := sys.stdin.buffer.readline().split():
        connections, count = map(int, asked)
        while len(pool) < connections:
            pool.append((await loop.create_connection(Connection, HOST, port))[1])
        share, more = divmod(count, connections)
        async with asyncio.TaskGroup() as tasks:
            for i, connection in enumerate(pool[:connections]):
                mine = itertools.islice(requests, share + (i < more))
                tasks.create_task(_closed_loop(connection, list(mine)))
        print("done", flush=True)


async def _closed_loop(connection: Connection, requests: list[bytes]) -> None:
    for request in requests:
        await connection.ask(request)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_ask(int(sys.argv[1])))
