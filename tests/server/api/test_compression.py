from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.compression import check_encoding, compressed, decompressed, wanted
from server.errors import (
    ClientError,
    InvalidRequestError,
    PayloadTooLargeError,
    UnsupportedMediaError,
)

LIMIT = 100_000
ENCODE: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
}


@pytest.mark.parametrize("encoding", ENCODE)
@given(st.binary(max_size=3000))
def test_what_was_compressed_comes_back(encoding: str, body: bytes) -> None:
    assert decompressed(ENCODE[encoding](body), encoding, LIMIT) == body


@pytest.mark.parametrize("encoding", ENCODE)
def test_no_more_than_the_limit_is_ever_made(encoding: str) -> None:
    assert len(decompressed(ENCODE[encoding](bytes(LIMIT)), encoding, LIMIT)) == LIMIT
    for size in (LIMIT + 1, 1000 * LIMIT):
        with pytest.raises(PayloadTooLargeError, match="exceeds 100000 bytes once decompressed"):
            decompressed(ENCODE[encoding](bytes(size)), encoding, LIMIT)


@pytest.mark.parametrize("encoding", ENCODE)
def test_a_body_must_be_whole_and_end_where_it_ends(encoding: str) -> None:
    body = ENCODE[encoding](b"some text")
    for size in range(1, len(body)):
        with pytest.raises(InvalidRequestError, match=r"cut off|is not"):
            decompressed(body[:size], encoding, LIMIT)
    with pytest.raises(InvalidRequestError, match="goes on behind its end"):
        decompressed(body + b"x", encoding, LIMIT)


def test_one_encoding_is_not_another() -> None:
    with pytest.raises(InvalidRequestError, match="the body is not gzip"):
        decompressed(zlib.compress(b"x"), "gzip", LIMIT)
    for encoding in ("br", "gzip, gzip", "x" * 1000):
        with pytest.raises(UnsupportedMediaError, match="one of gzip, deflate, identity") as caught:
            check_encoding(encoding)
        assert len(caught.value.message) < 200


@pytest.mark.parametrize("encoding", ENCODE)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_body_or_the_clients_fault(encoding: str, body: bytes) -> None:
    with suppress(ClientError):
        decompressed(body, encoding, LIMIT)


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("gzip;q=0.5, deflate;q=0.9", "deflate"),
        ("GZIP; q=1", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=much", None),
        ("br, *", None),
        ("identity", None),
        ("", None),
    ],
)
def test_a_client_gets_the_encoding_that_it_likes_best(accepted: str, chosen: str | None) -> None:
    assert wanted(accepted, 8000) == chosen


@pytest.mark.parametrize("encoding", ENCODE)
def test_what_is_sent_compressed_can_be_read(encoding: str) -> None:
    body = b"numbers " * 1000
    sent = compressed(body, encoding)
    assert decompressed(sent, encoding, LIMIT) == body
    assert len(sent) < len(body)


def test_short_bodies_are_sent_plain() -> None:
    assert wanted("gzip", 5) is None
