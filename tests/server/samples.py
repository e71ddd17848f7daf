"""Images and answers that tests of the server share."""

from __future__ import annotations

import asyncio
import base64
import io
import struct
import zlib
from collections.abc import Collection, Coroutine, Mapping
from typing import Any

import numpy as np
from PIL import Image
from starlette.types import ASGIApp, Message, Scope

from models.backends.torch import TorchBackend
from models.space import Subnet, Value
from server.served import Served

Probabilities = dict[str, dict[str, float]]


def image(seed: int = 0, width: int = 16, height: int = 16, form: str = "PNG") -> bytes:
    """Return an encoded image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def text_of(data: bytes) -> str:
    """Return bytes in base64."""
    return base64.b64encode(data).decode()


def claiming(width: int, height: int) -> bytes:
    """Return a small PNG whose header claims another size, checksum and all."""
    png = image()
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def form(*parts: tuple[str, bytes], boundary: str = "edge") -> bytes:
    """Return a multipart body; a part is what follows `form-data; ` and its content."""
    lines = [
        f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content
        for head, content in parts
    ]
    return b"\r\n".join([*lines, f"--{boundary}--\r\n".encode()])


def direct(
    served: Served, data: bytes, subnet: Mapping[str, Value], tasks: Collection[str]
) -> Probabilities:
    """Return the answer of a subnet for one image without the server."""
    plan = served.elastic.plan(Subnet(subnet), {"image": served.model.config.input.shape}, tasks)
    outputs = TorchBackend().run(plan, {"image": served.model.config.input.from_file(data)[None]})
    return {
        task: dict(
            zip(
                served.elastic.tasks[task].labels,
                outputs[task][0].softmax(-1).tolist(),
                strict=True,
            )
        )
        for task in tasks
    }


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine; fail, not hang, if something in it never comes."""
    asyncio.run(asyncio.wait_for(scenario, 30))


class Connection:
    """One HTTP connection to an ASGI app, message by message.

    Attributes:
        sent: What the app has sent.
        num_received: How many messages the app has taken.
    """

    def __init__(self, path: str, headers: Mapping[str, str], method: str = "POST") -> None:
        self.sent: list[Message] = []
        self.num_received = 0
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.lower().encode(), text.encode()) for name, text in headers.items()],
            "client": ("test", 1),
            "server": ("test", 80),
        }

    def body(self, chunk: bytes, more: bool = False) -> None:
        """Send a part of the request's body."""
        self._incoming.put_nowait({"type": "http.request", "body": chunk, "more_body": more})

    def leave(self) -> None:
        """Close the connection."""
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def serve(self, app: ASGIApp) -> None:
        """Let the app answer."""
        await app(self._scope, self._receive, self._send)

    @property
    def status(self) -> int:
        """HTTP status of the answer."""
        status: int = self.sent[0]["status"]
        return status

    async def _receive(self) -> Message:
        self.num_received += 1
        return await self._incoming.get()

    async def _send(self, message: Message) -> None:
        self.sent.append(message)
