"""Talking to a server that listens byte by byte."""

from __future__ import annotations

import socket

LONG_S = 30  # what never comes fails a test


def connected(address: str) -> socket.socket:
    host, _, port = address.partition(":")
    return socket.create_connection((host, int(port)), timeout=LONG_S)


def rest(client: socket.socket) -> bytes:
    """Return everything until the server closes the connection."""
    return b"".join(iter(lambda: client.recv(65536), b""))


def answered(client: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        received += client.recv(65536)
    headers, _, content = received.partition(b"\r\n\r\n")
    (length,) = (int(x[15:]) for x in headers.split(b"\r\n") if x.startswith(b"content-length:"))
    while len(content) < length:
        content += client.recv(65536)
    return content
