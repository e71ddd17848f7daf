"""An encoded image as a viewer shows it, scaled to what a model takes.

What is shown is turned as EXIF says, has eight bits a channel, lies on white where it is
transparent, and is in sRGB. Of an animation it is the still image: the first frame of a WebP, and
of an APNG what the PNG specification calls the static image. Other declarations that browsers do
not follow are not followed: PNG's gamma and chromaticities, and what XMP says of orientation.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError

from models.inputs import containers
from models.inputs.containers import BrokenFileError, ImageFile, Size, UnknownFormatError
from models.inputs.fitting import fit

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 40_000_000

# A reduced JPEG has at least so many times the size that it is scaled to. The result then differs
# from that of the whole by at most 2 of 255; at eight times the size by up to 4.
_REDUCED = 11
_REDUCTIONS = (8, 4, 2)  # what its decoder offers
_ROUNDING = 1  # of 255: two spellings of one colour space differ by as much
_FIRST_ON_SIDE = 5  # of EXIF's orientations
_SPACES = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}

_T = Image.Transpose
_TURNS = {
    2: _T.FLIP_LEFT_RIGHT,
    3: _T.ROTATE_180,
    4: _T.FLIP_TOP_BOTTOM,
    5: _T.TRANSPOSE,
    6: _T.ROTATE_270,
    7: _T.TRANSVERSE,
    8: _T.ROTATE_90,
}


class InvalidImageError(ValueError):
    """The bytes are no image that can be shown. The message says why and what is allowed."""


def size_of(data: bytes, max_pieces: int = containers.MAX_PIECES) -> Size:
    """Return the size that the header of a file claims, before the image is turned.

    Args:
        data: The file, or its beginning.
        max_pieces: Most of its pieces that are looked at.

    Raises:
        InvalidImageError: If it is no image, its header is not there, or it has no pixels.
    """
    if not data:
        raise InvalidImageError("the image is empty (0 bytes)")
    with _blaming("opened"):
        size = containers.size_of(data, max_pieces)
        if 0 in size:
            raise BrokenFileError(f"it has {size.width} x {size.height} pixels")
    return size


def check_size(width: int, height: int) -> None:
    """Raise InvalidImageError if an image has too many pixels."""
    if width * height > MAX_PIXELS:
        raise InvalidImageError(
            f"the image has more than {MAX_PIXELS:,} pixels: {width} x {height}"
        )


def shown_size(data: bytes) -> Size:
    """Return the size of an image as a viewer shows it, turned as EXIF says.

    Raises:
        InvalidImageError: As `size_of`.
    """
    size = size_of(data)
    with _blaming("opened"):
        file = containers.read(data)
        if file.form == "WEBP":
            _, file = _open(file, 1, 1)
        turns = containers.orientation_of(file.exif or b"") >= _FIRST_ON_SIDE
    return Size(size.height, size.width) if turns else size


def displayed(data: bytes, width: int, height: int) -> Image.Image:
    """Decode an image as a viewer shows it.

    Args:
        data: PNG, JPEG or WebP.
        width: Wanted, as for `fit`.
        height: Wanted.

    Returns:
        RGB, width x height.

    Raises:
        InvalidImageError: If it is empty, of another format, broken, or of more than 40 million
            pixels.
    """
    check_size(*size_of(data))
    with _blaming("opened"):
        file = containers.read(data)
        image, file = _open(file, width, height)
    with _blaming("decoded"):
        image.load()
        transform = _transform(file.profile, image.mode)
        image = _on_white(image, file)
        if transform is None and image.mode != "RGB":
            image = image.convert("RGB")
        turn = _TURNS.get(containers.orientation_of(file.exif or b""))
        if turn is not None:
            image = image.transpose(turn)
        image = fit(image, width, height)
        return image if transform is None else _in_srgb(image, transform)


@contextmanager
def _blaming(what: str) -> Iterator[None]:
    """Raise what is wrong with a file as an InvalidImageError.

    Broken files make the decoders raise errors of a dozen kinds, none of them documented.
    """
    try:
        yield
    except (InvalidImageError, MemoryError):
        raise
    except UnidentifiedImageError:  # whose message is an address in memory
        raise InvalidImageError(f"the image cannot be {what}: its header is broken") from None
    except UnknownFormatError:
        raise InvalidImageError(f"not an image; allowed: {', '.join(FORMATS)}") from None
    except Exception as error:  # noqa: BLE001
        raise InvalidImageError(f"the image cannot be {what}: {error}") from None


def _open(file: ImageFile, width: int, height: int) -> tuple[Image.Image, ImageFile]:
    """Return a file ready to be decoded, and what is known of it.

    A JPEG of many pixels is decoded at a half, a quarter or an eighth of its size, in a fraction of
    the time and memory, if that divides it without a rest and leaves enough to scale down from.
    """
    image = Image.open(io.BytesIO(file.data), formats=(file.form,))
    check_size(*image.size)  # decoders may take another part of the file for its header
    if file.form == "WEBP":
        return image, replace(
            file, exif=image.info.get("exif"), profile=image.info.get("icc_profile")
        )
    if file.form == "JPEG":
        room = min(image.width // (_REDUCED * width), image.height // (_REDUCED * height))
        for by in _REDUCTIONS:
            if by <= room and image.width % by == image.height % by == 0:
                image.draft(None, (image.width // by, image.height // by))
                break
    return image, file


def _on_white(image: Image.Image, file: ImageFile) -> Image.Image:
    """Return the image in eight bits and without transparency: L, RGB or CMYK.

    White is what pages and viewers show behind an image, and what data sets were flattened on.
    """
    match image.mode:
        case "1":
            return _without_key(image.convert("L"), file)
        case "L":
            return _without_key(image, file)
        case "I;16":
            return _from_16_bits(image, file)
        case "P":
            return _from_palette(image, file)
        case "RGB" if (colours := _key_of(file, 3)) is not None:
            # Pixels have kept the upper eight bits of sixteen.
            image.info["transparency"] = tuple(colour >> file.depth - 8 for colour in colours)
            return _composed(image.convert("RGBA"), "RGB")
        case "LA":
            return _composed(image, "L")
        case "RGBA":
            return _composed(image, "RGB")
        case "RGB" | "CMYK":
            return image
    return image.convert("RGB")


def _composed(image: Image.Image, mode: str) -> Image.Image:
    page = Image.new(mode, image.size, "white")
    page.paste(image.convert(mode), mask=image)
    return page


def _key_of(file: ImageFile, number: int) -> list[int] | None:
    """Return the samples that a PNG names as transparent, two bytes each; None if it names none.

    Viewers (libpng) pass over a ``tRNS`` of another length, and so does this.
    """
    given = file.transparency or b""
    if len(given) != 2 * number:
        return None
    return [int.from_bytes(given[2 * i : 2 * i + 2], "big") for i in range(number)]


def _without_key(image: Image.Image, file: ImageFile) -> Image.Image:
    """Make the one grey white that is transparent; it is given in as many bits as are stored."""
    found = _key_of(file, 1)
    if found is None:
        return image
    most = (1 << file.depth) - 1
    key = 255 * (found[0] & most) // most
    return image.point([255 if grey == key else grey for grey in range(256)])


def _from_16_bits(image: Image.Image, file: ImageFile) -> Image.Image:
    """Keep the upper eight bits, as is done with sixteen bits of colour."""
    greys: NDArray[np.uint16] = np.asarray(image)
    upper = (greys >> 8).astype(np.uint8)
    if (key := _key_of(file, 1)) is not None:
        upper[greys == key[0]] = 255
    return Image.fromarray(upper)


def _from_palette(image: Image.Image, file: ImageFile) -> Image.Image:
    """Lay the palette on white instead of the pixels."""
    palette = np.array(image.getpalette() or [], np.uint32).reshape(-1, 3)
    alphas = np.full(len(palette), 255, np.uint32)
    given = np.frombuffer(file.transparency or b"", np.uint8)[: len(palette)]
    alphas[: len(given)] = given
    share = alphas[:, None]
    image.putpalette(
        ((palette * share + 255 * (255 - share) + 127) // 255).astype(np.uint8).tobytes()
    )
    return image.convert("RGB")


def _transform(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what takes an image's colours to sRGB; None if its profile is none, or not of them."""
    mode = {"1": "L", "LA": "L", "I;16": "L", "P": "RGB", "RGBA": "RGB"}.get(mode, mode)
    if not profile or len(profile) > containers.MAX_PROFILE_BYTES:
        return None
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if given.profile.xcolor_space != _SPACES.get(mode):
            return None
        srgb = ImageCms.createProfile("sRGB")
        # Not optimised: tables that pay for millions of pixels would be made for thousands.
        return ImageCms.buildTransform(given, srgb, mode, "RGB", flags=ImageCms.Flags.NOOPTIMIZE)
    except Exception:  # noqa: BLE001  # viewers show the image all the same
        return None


def _in_srgb(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    """Take a small image to sRGB, unless it is there already."""
    plain = image.convert("RGB")
    try:
        found = ImageCms.applyTransform(image, transform)
    except Exception:  # noqa: BLE001
        return plain
    if found is None:
        return plain
    moved = np.abs(np.asarray(found, np.int16) - np.asarray(plain, np.int16))
    return plain if image.mode != "CMYK" and moved.max() <= _ROUNDING else found
