"""What of an image file its pixels need: PNG, JPEG and WebP, read without decoding anything.

A library that decodes an image also reads its texts, thumbnails and tables of tags, and takes time
and memory for them that the sender chooses. Here a file is cut down, within limits, to what its
pixels depend on, and only that is decoded.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

MAX_PIECES = 65_536  # of one file; a PNG of 20 MB in pieces of 8 kB has 2,500
MAX_SCANS = 50  # of a progressive JPEG; encoders make about ten, and each visits all pixels
MAX_PROFILE_BYTES = 4 * 2**20  # of a colour profile; those for printing have up to 3 MB

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_EXIF = b"Exif\0\0"
_ICC = b"ICC_PROFILE\0"
_ORIENTATION = 0x0112  # tag of EXIF 2.32, section 4.6.4
_WIDTHS = {1: 1, 3: 2, 4: 4}  # bytes of EXIF's whole numbers, by type
_ORDERS: dict[bytes, str] = {b"II*\0": "little", b"MM\0*": "big"}
_SOS, _EOI, _APP1, _APP2 = 0xDA, 0xD9, 0xE1, 0xE2
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of frame: holds the size
# Tables, frames, and JFIF's and Adobe's segments, which say what the channels are.
_PIXEL_SEGMENTS = frozenset(range(0xC0, 0xD0)) | {0xDB, 0xDD, 0xE0, 0xEE}
_BARE = frozenset(range(0xD0, 0xD9)) | {0x00, 0x01}  # markers that no length follows
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")  # what a length follows, or the end
_IHDR_BYTES = 33  # signature and header


class BrokenFileError(ValueError):
    """The bytes are no PNG, JPEG or WebP, cut short, or beyond a limit; the message says which."""


class UnknownFormatError(BrokenFileError):
    """The bytes do not begin as PNG, JPEG or WebP do."""


class Size(NamedTuple):
    """Of an image as it is stored, in pixels."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file cut down to what its pixels depend on.

    Attributes:
        form: PNG, JPEG or WEBP.
        data: Its bytes; of a PNG without ``tRNS``.
        exif: What is said of the image, as a TIFF file; None where it has none, or its decoder
            knows.
        profile: An ICC profile; None likewise.
        depth: Bits per sample that a PNG stores; else 8.
        transparency: Content of a PNG's ``tRNS``: what counts as transparent.
    """

    form: str
    data: bytes
    exif: bytes | None = None
    profile: bytes | None = None
    depth: int = 8
    transparency: bytes | None = None


def size_of(data: bytes, max_pieces: int = MAX_PIECES) -> Size:
    """Return the size that the header of a file claims.

    Args:
        data: The file, or its beginning.
        max_pieces: Most that are looked at; only a JPEG's size may lie behind others.

    Raises:
        BrokenFileError: If it is not there.
    """
    match _form_of(data):
        case "PNG":
            if data[12:16] != b"IHDR" or len(data) < 24:
                raise BrokenFileError("it has no header")
            return Size(int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"))
        case "WEBP":
            return _webp_size(data)
    for marker, start, _ in _segments(data, max_pieces):
        if marker in _FRAMES and len(data) >= start + 9:
            height = int.from_bytes(data[start + 5 : start + 7], "big")
            return Size(int.from_bytes(data[start + 7 : start + 9], "big"), height)
    raise BrokenFileError("it has no header")


def read(data: bytes) -> ImageFile:
    """Cut a file down.

    Raises:
        BrokenFileError: If it is none of the three formats, or beyond a limit.
    """
    match _form_of(data):
        case "PNG":
            return _read_png(data)
        case "WEBP":
            return ImageFile("WEBP", data)
    return _read_jpeg(data)


def orientation_of(exif: bytes) -> int:
    """Return how a viewer turns the image, 1..8 as EXIF counts; 1 where nothing sensible is said.

    Only this tag of the first directory is looked for.
    """
    exif = exif.removeprefix(_EXIF)
    order = _ORDERS.get(exif[:4])
    if order is None:
        return 1

    def number(at: int, length: int) -> int:
        return int.from_bytes(exif[at : at + length], order)  # type: ignore[arg-type]

    start = number(4, 4) + 2
    stop = min(start + 12 * number(start - 2, 2), len(exif) - 11)
    for at in range(start, stop, 12):
        if number(at, 2) == _ORIENTATION:
            width = _WIDTHS.get(number(at + 2, 2), 0)
            value = number(at + 8, width)
            return value if number(at + 4, 4) == 1 and 1 <= value <= 8 else 1
    return 1


def _form_of(data: bytes) -> str:
    if data.startswith(_PNG):
        return "PNG"
    if data.startswith(_JPEG):
        return "JPEG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    raise UnknownFormatError("it is none of PNG, JPEG, WEBP")


def _too_many(limit: int, what: str) -> BrokenFileError:
    return BrokenFileError(f"it has more than {limit:,} {what}")


def _webp_size(data: bytes) -> Size:
    """Read the canvas, or the one frame: RFC 9649, section 2; RFC 6386, section 9.1."""
    if len(data) >= 30:
        match data[12:16]:
            case b"VP8X":
                width, height = data[24:27], data[27:30]
                return Size(
                    int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1
                )
            case b"VP8L":
                bits = int.from_bytes(data[21:25], "little")
                return Size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
            case b"VP8 ":
                width, height = data[26:28], data[28:30]
                mask = 0x3FFF
                return Size(
                    int.from_bytes(width, "little") & mask, int.from_bytes(height, "little") & mask
                )
    raise BrokenFileError("it has no header")


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield each chunk's name, start and end; the last may be cut short."""
    at = len(_PNG)
    for _ in range(MAX_PIECES):
        if at + 8 > len(data):
            return
        name = data[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield name, at, min(end, len(data))
        if name == b"IEND":
            return
        at = end
    raise _too_many(MAX_PIECES, "pieces")


def _read_png(data: bytes) -> ImageFile:
    if data[12:16] != b"IHDR" or len(data) < _IHDR_BYTES:
        raise BrokenFileError("it has no header")
    kept, pixels = [data[:_IHDR_BYTES]], list[bytes]()
    exif = profile = transparency = None
    is_past = False  # the pixels are one run of chunks, which is made one chunk
    for name, start, end in _chunks(data):
        if name == b"IDAT":
            if not is_past:
                pixels.append(data[start + 8 : min(end, _claimed(data, start))])
            continue
        is_past = bool(pixels)
        if name == b"PLTE" and not is_past:
            kept.append(data[start:end])
        elif name == b"tRNS" and not is_past:
            transparency = data[start + 8 : end - 4]
        elif name == b"eXIf":
            exif = data[start + 8 : end - 4]
        elif name == b"iCCP" and not is_past:
            profile = _inflated(data[start + 8 : end - 4])
    if not pixels:
        raise BrokenFileError("it has no pixels")
    whole = b"".join(pixels)
    # No checksum, since the decoder does not ask for that of pixels: the stream has its own.
    kept += [len(whole).to_bytes(4, "big"), b"IDAT", whole, bytes(4), b"\0\0\0\0IEND\xaeB`\x82"]
    return ImageFile("PNG", b"".join(kept), exif, profile, data[24], transparency)


def _claimed(data: bytes, start: int) -> int:
    """Return where a chunk's content ends by its own word."""
    return start + 8 + int.from_bytes(data[start : start + 4], "big")


def _inflated(chunk: bytes) -> bytes | None:
    """Return the profile of an ``iCCP`` chunk; None if it is broken, or larger than any."""
    _, _, rest = chunk.partition(b"\0")
    try:
        stream = zlib.decompressobj()
        profile = stream.decompress(rest[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if stream.eof else None


def _segments(data: bytes, max_pieces: int) -> Iterator[tuple[int, int, int]]:
    """Yield each segment's marker, start and end up to the first scan, that one included.

    Raises:
        BrokenFileError: If the file ends before, or has too many.
    """
    at = len(_JPEG)
    for _ in range(max_pieces):
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            raise BrokenFileError("it is cut short, or has no pixels")
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _BARE:
            at += 2
        elif marker == _EOI:
            raise BrokenFileError("it has no pixels")
        else:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            yield marker, at, end
            if marker == _SOS:
                return
            at = end
    raise _too_many(max_pieces, "pieces")


def _read_jpeg(data: bytes) -> ImageFile:
    kept, fragments = [_JPEG], list[bytes]()
    exif = None
    for marker, start, end in _segments(data, MAX_PIECES):
        content = data[start + 4 : min(end, start + 4 + len(_ICC))]
        if marker == _SOS:
            _check_scans(data, start)
            kept.append(data[start:])
        elif marker in _PIXEL_SEGMENTS:
            kept.append(data[start:end])
        elif marker == _APP1 and exif is None and content.startswith(_EXIF):
            exif = data[start + 4 : end]
        elif marker == _APP2 and content == _ICC:
            fragments.append(data[start + 4 + len(_ICC) : end])
    return ImageFile("JPEG", b"".join(kept), exif, _joined(fragments))


def _joined(fragments: list[bytes]) -> bytes | None:
    """Return the profile whose parts lie in segments, each with its number and how many there are.

    None if one is missing (ICC.1:2022, annex B.4).
    """
    parts = {part[0]: part[2:] for part in fragments if len(part) > 2}
    is_whole = bool(parts) and all(part[1:2] == bytes([len(fragments)]) for part in fragments)
    if not is_whole or sorted(parts) != list(range(1, len(fragments) + 1)):
        return None
    profile = b"".join(parts[number] for number in sorted(parts))
    return profile if len(profile) <= MAX_PROFILE_BYTES else None


def _check_scans(data: bytes, at: int) -> None:
    """Refuse what takes far longer to decode than its pixels say."""
    if data.count(b"\xff\xda", at) <= MAX_SCANS:  # also where what follows is no scan at all
        return
    num_scans = 0
    for _ in range(MAX_PIECES):
        found = _MARKER.search(data, at)
        if found is None or data[found.start() + 1] == _EOI:
            return
        at = found.start() + 2
        num_scans += data[at - 1] == _SOS
        at += int.from_bytes(data[at : at + 2], "big")
        if num_scans > MAX_SCANS:
            raise _too_many(MAX_SCANS, "scans")
    raise _too_many(MAX_PIECES, "pieces")
