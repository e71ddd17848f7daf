from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest

from models.backends.torch import TorchBackend
from server.http.addresses import AddressError, bound, check_grpc
from server.inputs.decoder import Decoder
from server.served import Served
from tests.server.around import service_around
from tests.server.listening import ROOT, free_port, server
from tests.server.samples import run

V4, V6 = "127.0.0.1", "::1"
HOSTS = {
    "127.0.0.1": {V4},
    "::1": {V6},
    "localhost": {V4, V6},
    "0.0.0.0": {V4},
    "::": {V4, V6},
}

needs_both = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6 beside IPv4")


@pytest.fixture
def port() -> int:
    return free_port()


def reached(port: int) -> set[str]:
    """Return at which addresses of this machine somebody listens."""
    found = set()
    for host in (V4, V6):
        with suppress(ConnectionError):
            socket.create_connection((host, port), timeout=10).close()
            found.add(host)
    return found


def named(host: str) -> set[str]:
    """Return what a host stands for here: which addresses a name has is the machine's."""
    if host != "localhost":
        return HOSTS[host]
    return {str(one[4][0]) for one in socket.getaddrinfo(host, 1, type=socket.SOCK_STREAM)}


@needs_both
@pytest.mark.parametrize("host", HOSTS)
def test_a_host_means_the_same_for_http(host: str, port: int) -> None:
    sockets = bound(host, port)
    assert reached(port) == set()  # bound, and nobody waits on a server that is still loading
    for one in sockets:
        one.listen()
    assert reached(port) == named(host)
    for one in sockets:
        one.close()


@needs_both
@pytest.mark.parametrize("host", [host for host in HOSTS if host != "localhost"])
def test_a_host_means_the_same_for_grpc(
    host: str, port: int, served: Served, decoder: Decoder
) -> None:
    pytest.importorskip("grpc", reason="needs the extra grpc")
    from server.api.kserve.grpc import GrpcServer
    from server.api.kserve.grpc_calls import Calls
    from server.api.kserve.inference import Inference
    from tests.server.api.kserve.grpc_server import identified

    async def scenario() -> None:
        async with service_around(served, decoder, TorchBackend(), 8, 8) as (service, _):
            calls = Calls(identified())
            async with GrpcServer(Inference(service, 2, 2), calls, host, port, 1000, 16, 1.0):
                assert await asyncio.to_thread(reached, port) == HOSTS[host]

    run(scenario())
    check_grpc(host, port)  # free again


@needs_both
def test_a_process_listens_with_both_protocols_at_every_address_of_a_wildcard(
    port: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pytest.importorskip("grpc", reason="needs the extra grpc")
    folder, grpc_port = ROOT / "models" / "zoo" / "cifar100-mtl", free_port()
    options = ["--host", "::", "--grpc-port", str(grpc_port), "--open"]
    with server(folder, port, *options):
        assert httpx.get(f"http://[{V6}]:{port}/healthz").status_code == 200
        assert httpx.get(f"http://{V4}:{port}/healthz").status_code == 200
        assert reached(grpc_port) == {V4, V6}


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server((V4, 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("host", [V4, "0.0.0.0"])
def test_an_address_that_is_taken_is_told_with_setting_host_and_port(host: str, taken: int) -> None:
    where = f"{host}:{taken}: Address already in use"
    with pytest.raises(AddressError, match=f"^port={taken}: cannot listen on {where}$"):
        bound(host, taken)
    with pytest.raises(AddressError, match=f"^grpc_port={taken}: cannot listen on {where}$"):
        check_grpc(host, taken)


def test_nothing_stays_bound_where_one_of_several_addresses_is_taken(taken: int) -> None:
    with pytest.raises(AddressError):
        bound("::", taken)
    if socket.has_dualstack_ipv6():
        for one in bound(V6, taken):
            one.close()


def test_a_port_that_was_just_left_can_be_had_again(port: int) -> None:
    for _ in range(2):
        (listener,) = bound(V4, port)
        listener.listen()
        with socket.create_connection((V4, port)):
            accepted, _ = listener.accept()
            accepted.close()  # first, so that its side waits
        listener.close()
