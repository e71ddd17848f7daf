"""Image files made byte by byte, so that tests know what is in them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageCms


def encoded(image: Any, form: str = "PNG", **options: Any) -> bytes:
    """Return an image, or pixels, as a file."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    if form == "JPEG" and "exif" in options:
        options["exif"] = b"Exif\0\0" + options["exif"]
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG."""
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def png_of(values: Any, depth: int, kind: int, extra: bytes = b"") -> bytes:
    """Return a PNG of samples.

    Args:
        values: Samples, shape [height, width, channels].
        depth: Bits of each.
        kind: The colour type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA.
        extra: Chunks between header and pixels.
    """
    height, width, _ = values.shape
    rows = []
    for row in np.asarray(values).reshape(height, -1):
        if depth >= 8:
            packed = row.astype(">u2" if depth == 16 else "u1").tobytes()
        else:
            bits = (row[:, None] >> np.arange(depth)[::-1] & 1).astype(np.uint8)
            packed = np.packbits(bits).tobytes()
        rows.append(b"\0" + packed)
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"".join(rows)))
    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), extra, pixels, chunk(b"IEND", b"")]
    return b"".join(parts)


def exif_of(
    orientation: int, big_endian: bool = False, kind: int = 3, count: int = 1, before: int = 0
) -> bytes:
    """Return a TIFF directory with an orientation, behind other tags."""
    order = ">" if big_endian else "<"
    head = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(f"{order}IH", 8, before + 1)
    others = b"".join(struct.pack(f"{order}HHII", 1, 4, 1, i) for i in range(before))
    entry = struct.pack(f"{order}HHIHH", 0x0112, kind, count, orientation, 0)
    return head + others + entry + bytes(4)


def stored_for(pixels: Any, orientation: int) -> Any:
    """Return pixels as they lie in a file that says so, by the definition in EXIF 2.32.

    The tag says where the first row and the first column of the file are seen.
    """
    row, column = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }[orientation]
    if row in ("left", "right"):
        pixels = pixels.swapaxes(0, 1)  # rows of the file are columns of the picture
    if row in ("bottom", "right"):
        pixels = pixels[::-1]
    if column in ("bottom", "right"):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def profile_of(order: str) -> bytes:
    """Return an ICC profile of sRGB whose channels stand for the lights of ``order``.

    With GBR a file's first channel is how much green there is, as in the test images that browsers
    are tried with.
    """
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    num_tags = struct.unpack_from(">I", profile, 128)[0]
    offsets = {}
    for i in range(num_tags):
        name, offset, size = struct.unpack_from(">4sII", profile, 132 + 12 * i)
        offsets[name.decode()] = profile[offset : offset + size], 132 + 12 * i + 4
    entries = {light: bytes(profile[at : at + 8]) for light, (_, at) in offsets.items()}
    for channel, light in zip("rgb", order.lower(), strict=True):
        at = offsets[f"{channel}XYZ"][1]
        profile[at : at + 8] = entries[f"{light}XYZ"]
    return bytes(profile)
