"""Where the server listens: taken before anything is loaded, and alike for HTTP and gRPC.

`::` is every address of the machine, IPv6 and IPv4; `0.0.0.0` every one of IPv4; a name, all that
it stands for.
"""

from __future__ import annotations

import errno
import os
import socket

_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class AddressError(OSError):
    """The server cannot listen where it is meant to. The message names setting, host and port."""


def bound(host: str, port: int) -> list[socket.socket]:
    """Return a socket for each address that a host stands for, bound and not listening yet.

    Raises:
        AddressError: If one is taken, or none is this machine's.
    """
    return _bound("port", host, port)


def check_grpc(host: str, port: int) -> None:
    """Say whether gRPC, which binds by itself and later, will find its port free.

    Raises:
        AddressError: As `bound`.
    """
    for one in _bound("grpc_port", host, port):
        one.close()


def only_ipv4(host: str, port: int) -> socket.socket | None:
    """Keep gRPC from IPv6, which `0.0.0.0` means to it as well.

    It tries `[::]` first, and what is bound there makes it go on with IPv4.

    Returns:
        What has to stay open as long as gRPC listens; None if nothing has to.
    """
    if host != "0.0.0.0" or not socket.has_ipv6:
        return None
    keeper = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    try:
        keeper.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        keeper.bind(("::", port))
    except OSError:  # there is no IPv6 here, or somebody else has that address
        keeper.close()
        return None
    return keeper


def _bound(setting: str, host: str, port: int) -> list[socket.socket]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise AddressError(f"host={host}: {error.strerror}") from None
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            sockets.append(_bound_to(socket.socket(family, kind, protocol), host, address))
        except OSError as error:
            if error.errno in _NOT_HERE:  # such as ::1 of localhost, where IPv6 is off
                missing = error
                continue
            for one in sockets:
                one.close()
            raise _refusal(setting, host, port, error) from None
    if not sockets:
        assert missing is not None, "a name stands for an address at least"
        raise _refusal(setting, host, port, missing)
    return sockets


def _bound_to(one: socket.socket, host: str, address: object) -> socket.socket:
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if one.family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
        one.bind(address)  # type: ignore[arg-type]
    except OSError:
        one.close()
        raise
    return one


def _refusal(setting: str, host: str, port: int, error: OSError) -> AddressError:
    why = os.strerror(error.errno) if error.errno else str(error)
    where = f"[{host}]" if ":" in host else host
    return AddressError(f"{setting}={port}: cannot listen on {where}:{port}: {why}")
