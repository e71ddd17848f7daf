from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.inputs.containers import BrokenFileError, orientation_of, read, size_of
from tests.models.inputs.image_files import chunk, encoded, exif_of, profile_of

PIXELS = np.random.default_rng(1).integers(0, 256, (17, 23, 3), np.uint8)
FORMS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("WEBP", {"exif": exif_of(6)}),
]


@pytest.mark.parametrize(("form", "options"), FORMS)
def test_the_size_stands_in_the_beginning_of_a_file(form: str, options: dict[str, Any]) -> None:
    data = encoded(PIXELS, form, **options)
    assert size_of(data) == size_of(data[:400]) == (23, 17)
    for length in range(0, len(data), 7):
        try:
            assert size_of(data[:length]) == (23, 17)
        except BrokenFileError:
            assert length < 400


def test_no_more_pieces_are_looked_at_than_wanted() -> None:
    data = encoded(PIXELS, "JPEG")
    behind = data[:2] + b"\xff\xfe\0\2" * 20 + data[2:]
    assert size_of(behind) == (23, 17)
    with pytest.raises(BrokenFileError, match="more than 16 pieces"):
        size_of(behind, 16)


def test_of_a_png_only_what_pixels_need_is_left() -> None:
    plain = encoded(PIXELS)
    texts = chunk(b"tEXt", b"k\0v") + chunk(b"eXIf", exif_of(3)) + chunk(b"gAMA", bytes(4))
    before, behind = texts + chunk(b"tRNS", b"123456"), texts
    file = read(plain[:33] + before + plain[33:-12] + behind + plain[-12:])
    assert len(file.data) == len(read(plain).data)
    assert (file.exif, file.transparency, file.depth) == (exif_of(3), b"123456", 8)


def test_pixels_in_many_pieces_become_one() -> None:
    plain = encoded(PIXELS)
    start = plain.index(b"IDAT") + 4
    length = int.from_bytes(plain[start - 8 : start - 4], "big")
    pieces = [chunk(b"IDAT", plain[at : at + 1]) for at in range(start, start + length)]
    file = read(plain[:33] + b"".join(pieces) + chunk(b"IDAT", b"") + plain[-12:])
    assert file.data == read(plain).data


def test_of_a_jpeg_only_what_pixels_need_is_left() -> None:
    plain = encoded(PIXELS, "JPEG")
    file = read(encoded(PIXELS, "JPEG", exif=exif_of(3), comment=b"c", icc_profile=b"profile"))
    assert file.data == read(plain).data
    assert file.exif == b"Exif\0\0" + exif_of(3)
    assert file.profile == b"profile"


def test_a_profile_in_several_segments_is_joined_in_their_order_or_not_at_all() -> None:
    plain = encoded(PIXELS, "JPEG")

    def segment(number: int, count: int, content: bytes) -> bytes:
        content = b"ICC_PROFILE\0" + bytes([number, count]) + content
        return b"\xff\xe2" + (len(content) + 2).to_bytes(2, "big") + content

    def joined(*segments: bytes) -> bytes | None:
        return read(plain[:2] + b"".join(segments) + plain[2:]).profile

    assert joined(segment(2, 2, b"b"), segment(1, 2, b"a")) == b"ab"
    assert joined(segment(1, 2, b"a")) is None
    assert joined(segment(1, 2, b"a"), segment(1, 2, b"a")) is None
    assert joined(segment(1, 2, b"a"), segment(3, 2, b"b")) is None
    assert joined(segment(0, 1, b"a")) is None


def test_a_profile_of_a_png_is_inflated_within_a_limit() -> None:
    profile = profile_of("GBR")
    assert read(encoded(PIXELS, icc_profile=profile)).profile == profile
    assert read(encoded(PIXELS, icc_profile=bytes(5 * 2**20))).profile is None


@pytest.mark.parametrize("big_endian", [False, True])
def test_orientation_is_found_among_other_tags(big_endian: bool) -> None:
    for orientation in range(1, 9):
        for before in (0, 1, 500):
            exif = exif_of(orientation, big_endian, before=before)
            assert orientation_of(exif) == orientation_of(b"Exif\0\0" + exif) == orientation
    assert orientation_of(exif_of(9, big_endian)) == 1
