"""Images of every mode, container and orientation that Pillow writes, and broken ones."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from functools import cache, lru_cache
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from bench.hostile.case import Case, Target, post_json

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F")
_MODES_16 = ("I;16", "I;16L", "I;16B")
_FORMATS = (
    *("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "ICO", "PPM", "JPEG2000", "TGA", "PCX", "DIB"),
    *("SGI", "ICNS", "MSP", "XBM", "EPS", "PDF", "AVIF", "DDS", "QOI", "MPO"),
)
_ALLOWED = ("PNG", "JPEG", "WEBP")
_SIZES = ((1, 1), (1, 60), (60, 1), (7, 5), (32, 32), (64, 40), (300, 200), (2, 900))
_ORIENTATION = 0x0112
_HUGE = ((30_000, 30_000), (0, 0), (0, 9), (2**31 - 1, 1), (6_000, 6_000), (65_536, 65_536))


@cache
def plain_image() -> bytes:
    """Return a small PNG in order."""
    return _file("RGB", "PNG", (32, 32), None, 0) or b""


@lru_cache(1000)
def _file(
    mode: str, form: str, size: tuple[int, int], orientation: int | None, seed: int
) -> bytes | None:
    """Return an encoded image of noise; None where Pillow does not write it."""
    width, height = size
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    options: dict[str, Any] = {}
    if orientation is not None:
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        options["exif"] = exif.tobytes()
    if seed % 3 == 1 and form in ("PNG", "GIF") and mode in ("P", "L", "RGB"):
        options["transparency"] = (1, 2, 3) if mode == "RGB" else 0
    if seed % 5 == 1 and form in ("GIF", "WEBP", "PNG", "TIFF"):
        options |= {"save_all": True, "append_images": [Image.fromarray(noise[..., :3])] * 3}
    buffer = io.BytesIO()
    try:
        if mode in _MODES_16:
            wide = noise.astype(np.uint16)[..., 0] * 257
            image = Image.frombytes(mode, size, wide.astype(">u2" if mode[-1] == "B" else "<u2"))
        else:
            image = Image.fromarray(noise[..., :3]).convert(mode)
        image.save(buffer, form, **options)
    except Exception:  # noqa: BLE001  # Pillow writes only some of them, and says so in many ways
        return None
    return buffer.getvalue()


def image(random: Random, target: Target) -> Case:
    """Make an image of any mode, container, size and orientation, in order."""
    while True:
        mode = random.choice((*_MODES, *_MODES_16))
        form = random.choice((*_ALLOWED, *_ALLOWED, *_FORMATS))
        orientation = random.choice((None, 1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 65535))
        found = _file(mode, form, random.choice(_SIZES), orientation, random.randrange(8))
        if found:
            break
    wants: tuple[int, ...] = (200, 422, 429, 503)
    if form in _ALLOWED and mode in ("RGB", "L", "RGBA"):
        wants = (200, 429, 503)
    what = f"{form} {mode}, orientation {orientation}"
    return _sent(random, target, what, found, wants)


def broken(random: Random, target: Target) -> Case:
    """Make an image that is cut off, has wrong bytes, or claims what it is not."""
    form = random.choice(_ALLOWED)
    found = _file("RGB", form, random.choice(_SIZES), random.choice((None, 6)), random.randrange(8))
    whole = bytearray(found or plain_image())
    match random.randrange(6):
        case 0:
            what, whole = "cut off", whole[: random.randrange(len(whole))]
        case 1:
            what = "wrong bytes"
            for _ in range(random.randint(1, 20)):
                whole[random.randrange(len(whole))] = random.randrange(256)
        case 2:
            what = "more behind"
            whole += random.randbytes(1000)
        case 3:
            width, height = random.choice(_HUGE)
            what, whole = f"claims {width} x {height}", bytearray(_claiming(width, height))
        case 4:
            what, whole = "a chunk that unpacks to much", bytearray(_text_bomb())
        case _:
            what = "broken EXIF"
            exif = b"Exif\x00\x00" + random.choice((b"", b"II*\x00", random.randbytes(300)))
            whole[2:2] = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    return _sent(random, target, f"{form}, {what}", bytes(whole), ())


def _sent(random: Random, target: Target, what: str, data: bytes, wants: tuple[int, ...]) -> Case:
    text = base64.b64encode(data).decode()
    if target.image_model is None:
        wants = ()
    if random.random() < 0.15:
        tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}
        wants = tuple(400 if status == 422 else status for status in wants)
        path = f"/v2/models/{target.image_model}/infer"
        return Case(
            f"{what}, as a tensor", [post_json(target, path, {"inputs": [tensor]})], wants=wants
        )
    kind = random.choice(("", "", "data:image/png;base64,"))
    body = {"model": target.image_model, "image": kind + text}
    return Case(what, [post_json(target, "/v1/infer", body)], wants=wants)


def _claiming(width: int, height: int) -> bytes:
    png = plain_image()
    header = b"IHDR" + struct.pack(">II", width & 0xFFFFFFFF, height & 0xFFFFFFFF) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


@cache
def _text_bomb() -> bytes:
    """Return a PNG with compressed text and a profile of many zeros."""
    png = plain_image()
    chunks = b""
    for name, start in ((b"zTXt", b"k\x00\x00"), (b"iCCP", b"p\x00\x00")):
        body = name + start + zlib.compress(bytes(30_000_000))
        chunks += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:33] + chunks + png[33:]


MAKERS = (image, image, broken)
