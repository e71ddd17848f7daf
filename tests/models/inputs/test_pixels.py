"""Each picture is compared with the same pixels saved plainly, or with values computed by hand."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

import models
from models import checkpoint
from models.backends.torch import TorchBackend
from models.inputs.content import Encoded
from models.inputs.pixels import InvalidImageError, displayed, size_of
from tests.models.inputs.image_files import chunk, encoded, exif_of, png_of, profile_of, stored_for

SIZE = (23, 17)
RNG = np.random.default_rng(7)
PIXELS = RNG.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
GREYS = RNG.integers(0, 256, (SIZE[1], SIZE[0]), np.uint8)
ALPHAS = RNG.choice(np.array([0, 1, 128, 254, 255], np.uint8), (SIZE[1], SIZE[0]))
SAVED: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 100, "subsampling": 0},
    "WEBP": {"lossless": True},
}
LOSSLESS: list[tuple[str, dict[str, Any]]] = [("PNG", {}), ("WEBP", {"lossless": True})]


def shown(data: bytes, size: tuple[int, int] = SIZE) -> Any:
    image = displayed(data, *size)
    assert (image.mode, image.size) == ("RGB", size)
    return np.asarray(image).astype(int)


def grey(values: Any) -> Any:
    return np.stack([values] * 3, -1).astype(int)


def on_white(colours: Any, alphas: Any) -> Any:
    """Mix with white by hand, to the nearest whole number."""
    share = np.asarray(alphas, float)[..., None] / 255
    return np.rint(share * colours + (1 - share) * 255).astype(int)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize(("form", "options"), LOSSLESS)
def test_exif_turns_the_image_as_viewers_do(
    form: str, options: dict[str, Any], big_endian: bool, orientation: int
) -> None:
    stored = stored_for(PIXELS, orientation)
    data = encoded(stored, form, exif=exif_of(orientation, big_endian), **options)
    np.testing.assert_array_equal(shown(data), PIXELS)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}])
def test_exif_turns_a_jpeg(orientation: int, options: dict[str, Any]) -> None:
    smooth = np.asarray(Image.fromarray(PIXELS[:3, :4]).resize((48, 32), Image.Resampling.BICUBIC))
    stored = stored_for(smooth, orientation)
    options = {"quality": 95, **options}
    found = shown(encoded(stored, "JPEG", exif=exif_of(orientation), **options), (48, 32))
    plain = np.asarray(Image.open(io.BytesIO(encoded(stored, "JPEG", **options))))
    # The very pixels of the file, turned; and the picture, but for what JPEG loses.
    np.testing.assert_array_equal(stored_for(found.astype(np.uint8), orientation), plain)
    assert np.abs(found - smooth).mean() < 4


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\0\0",
        b"nonsense",
        exif_of(0),
        exif_of(9),
        exif_of(65535),
        exif_of(6, kind=2),  # text
        exif_of(6, count=2),
        exif_of(6)[:-12],
        b"II*\0" + struct.pack("<IH", 2**32 - 8, 1),
        b"II*\0" + struct.pack("<IH", 8, 65535),
        b"MM\0*" + bytes(8),
    ],
)
@pytest.mark.parametrize(("form", "options"), [*LOSSLESS, ("JPEG", {"quality": 95})])
def test_a_senseless_orientation_turns_nothing(
    form: str, options: dict[str, Any], exif: bytes
) -> None:
    plain = shown(encoded(PIXELS, form, **options))
    np.testing.assert_array_equal(shown(encoded(PIXELS, form, exif=exif, **options)), plain)


def test_orientation_is_found_behind_the_pixels_of_a_png_and_other_tags() -> None:
    data = encoded(stored_for(PIXELS, 6))
    behind = data[:-12] + chunk(b"eXIf", exif_of(6, before=300)) + data[-12:]
    np.testing.assert_array_equal(shown(behind), PIXELS)


def test_what_xmp_says_of_orientation_is_not_followed_as_in_browsers() -> None:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "<x tiff:Orientation='6'/>")
    np.testing.assert_array_equal(shown(encoded(PIXELS, pnginfo=info)), PIXELS)


@pytest.mark.parametrize("scale", [256, 257])
@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_look_like_their_upper_eight(kind: int, channels: int, scale: int) -> None:
    low = RNG.integers(0, 256, (SIZE[1], SIZE[0], channels)) if scale == 256 else 0
    eight = RNG.integers(0, 256, (SIZE[1], SIZE[0], channels))
    if channels in (2, 4):
        eight[..., -1] = ALPHAS
    found = shown(png_of(eight * scale + low, 16, kind))
    colours = eight[..., :3] if channels > 2 else grey(eight[..., 0])
    expected = on_white(colours, ALPHAS) if channels in (2, 4) else colours
    np.testing.assert_array_equal(found, expected)


def test_sixteen_bits_of_grey_as_pillow_saves_them() -> None:
    wide = Image.fromarray(GREYS.astype(np.uint16) * 257)
    assert wide.mode == "I;16"
    np.testing.assert_array_equal(shown(encoded(wide)), grey(GREYS))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("key", [None, 0, 1])
def test_few_bits_of_grey_are_spread_from_black_to_white(depth: int, key: int | None) -> None:
    most = 2**depth - 1
    values = RNG.integers(0, most + 1, (SIZE[1], SIZE[0], 1))
    expected = values[..., 0] * 255 // most
    trns = b""
    if key is not None:
        expected = np.where(values[..., 0] == key, 255, expected)
        trns = chunk(b"tRNS", struct.pack(">H", key))
    np.testing.assert_array_equal(shown(png_of(values, depth, 0, trns)), grey(expected))


def test_the_one_colour_that_is_transparent_is_white() -> None:
    key = struct.pack(">3H", *PIXELS[3, 5])
    expected = PIXELS.astype(int)
    expected[(PIXELS[3, 5] == PIXELS).all(-1)] = 255
    assert (expected != PIXELS).any()
    np.testing.assert_array_equal(shown(png_of(PIXELS, 8, 2, chunk(b"tRNS", key))), expected)
    wide = struct.pack(">3H", *(PIXELS[3, 5].astype(int) * 257))
    data = png_of(PIXELS.astype(int) * 257, 16, 2, chunk(b"tRNS", wide))
    np.testing.assert_array_equal(shown(data), expected)


def test_the_one_grey_of_sixteen_bits_that_is_transparent_is_white() -> None:
    values = RNG.integers(0, 2**16, (SIZE[1], SIZE[0], 1))
    values[0, 0], values[0, 1] = 0x1234, 0x1235
    expected = grey(values[..., 0] >> 8)
    expected[0, 0] = 255
    data = png_of(values, 16, 0, chunk(b"tRNS", struct.pack(">H", 0x1234)))
    np.testing.assert_array_equal(shown(data), expected)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("alphas", [b"", b"\x00", b"\x80\xff\x00", b"\xff\x00"])
def test_a_palette_lies_on_white_by_its_alphas(depth: int, alphas: bytes) -> None:
    num_colours = 2**depth
    palette = RNG.integers(0, 256, (num_colours, 3), np.uint8)
    values = RNG.integers(0, num_colours, (SIZE[1], SIZE[0], 1))
    extra = chunk(b"PLTE", palette.tobytes())
    extra += chunk(b"tRNS", alphas[:num_colours]) if alphas else b""
    full = np.full(num_colours, 255)
    full[: len(alphas[:num_colours])] = list(alphas[:num_colours])
    expected = on_white(palette, full)[values[..., 0]]
    np.testing.assert_array_equal(shown(png_of(values, depth, 3, extra)), expected)


@pytest.mark.parametrize(("form", "options"), LOSSLESS)
@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_transparent_parts_show_white_and_not_what_they_hide(
    form: str, options: dict[str, Any], mode: str
) -> None:
    rgba = Image.fromarray(np.dstack([PIXELS, ALPHAS]))
    la = Image.merge("LA", [Image.fromarray(GREYS), Image.fromarray(ALPHAS)])
    colours: Any = PIXELS
    match mode:
        case "RGBA":
            image = rgba
        case "LA" | "La":
            image, colours = la, grey(GREYS)
        case "PA":
            image = rgba.convert("PA")
            colours = np.asarray(image.convert("RGBA"))[..., :3]
            image = image.convert("RGBA")
        case _:
            image = rgba.convert("RGBa").convert("RGBA")
            colours = np.asarray(image)[..., :3]
    options = options | ({"exact": True} if form == "WEBP" else {})
    np.testing.assert_array_equal(shown(encoded(image, form, **options)), on_white(colours, ALPHAS))


@pytest.mark.parametrize(("form", "options"), LOSSLESS)
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "HSV", "YCbCr", "LAB", "CMYK", "F"])
def test_modes_without_transparency_look_as_pillow_converts_them(
    form: str, options: dict[str, Any], mode: str
) -> None:
    image = Image.fromarray(PIXELS)
    if mode == "LAB":
        srgb, lab = (ImageCms.createProfile(name) for name in ("sRGB", "LAB"))
        converted = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
        assert converted is not None
        image = converted
    else:
        image = image.convert(mode)
    try:
        data = encoded(image, form, **options)
    except (OSError, ValueError):  # the form cannot hold the mode as it is
        data = encoded(image.convert("RGB" if mode != "F" else "L"), form, **options)
    expected = np.asarray(image.convert("L" if mode == "F" else "RGB").convert("RGB"))
    if mode == "LAB":
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(shown(data), expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "YCbCr", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}])
def test_jpegs_look_as_their_colours_are_meant(mode: str, options: dict[str, Any]) -> None:
    smooth = Image.fromarray(PIXELS[:3, :4]).resize((48, 32), Image.Resampling.BICUBIC)
    image = smooth.convert(mode)
    found = shown(encoded(image, "JPEG", quality=95, **options), (48, 32))
    assert np.abs(found - np.asarray(image.convert("RGB")).astype(int)).mean() < 4


def test_cmyk_of_adobe_is_stored_inverted() -> None:
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    found = shown(encoded(ink, "JPEG", quality=95), (16, 16))
    assert np.abs(found - [255, 0, 0]).max() <= 3


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.fromarray(PIXELS), Image.new("RGB", SIZE, "red")]
    for form, options in LOSSLESS:
        options = {"save_all": True, "append_images": frames[1:], **options}
        np.testing.assert_array_equal(shown(encoded(frames[0], form, **options)), PIXELS)


def test_gamma_and_chromaticities_are_not_followed_as_in_most_viewers() -> None:
    extra = chunk(b"gAMA", struct.pack(">I", 100_000)) + chunk(b"cHRM", bytes(32))
    np.testing.assert_array_equal(shown(png_of(PIXELS, 8, 2, extra)), PIXELS)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_colour_profile_is_followed(form: str) -> None:
    swapped = profile_of("GBR")  # its first channel is green light, and so on
    colour = (200, 30, 90)
    options = SAVED[form]
    data = encoded(Image.new("RGB", (16, 16), colour), form, icc_profile=swapped, **options)
    assert np.abs(shown(data, (16, 16)) - [90, 200, 30]).max() <= 2


def test_a_profile_of_srgb_changes_nothing_at_all() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, profile_of("RGB")):
        np.testing.assert_array_equal(shown(encoded(PIXELS, icc_profile=profile)), PIXELS)


GOOD = profile_of("GBR")


@pytest.mark.parametrize(
    "profile",
    [
        b"no profile",
        GOOD[:200],
        GOOD[: len(GOOD) // 2],
        bytes(len(GOOD)),
        GOOD[:128] + b"\xff" * (len(GOOD) - 128),
        GOOD[:16] + b"CMYK" + GOOD[20:],  # not the image's colours
        GOOD + bytes(5 * 2**20),  # too large
        ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
    ],
)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_broken_profile_is_no_reason_to_refuse(form: str, profile: bytes) -> None:
    options = SAVED[form]
    plain = shown(encoded(PIXELS, form, **options))
    with_profile = shown(encoded(PIXELS, form, icc_profile=profile, **options))
    np.testing.assert_array_equal(with_profile, plain)


@pytest.mark.parametrize("size", [(4096, 3072), (1024, 1000), (704, 720)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_large_jpeg_is_reduced_within_two_levels_of_the_whole(
    size: tuple[int, int], options: dict[str, Any]
) -> None:
    coarse = Image.fromarray(RNG.integers(0, 256, (40, 50, 3), np.uint8))
    for resampling in (Image.Resampling.NEAREST, Image.Resampling.BICUBIC):
        data = encoded(coarse.resize(size, resampling), "JPEG", quality=90, **options)
        whole = Image.open(io.BytesIO(data)).convert("RGB")
        plain = shown(encoded(whole, compress_level=1), (32, 32))
        assert np.abs(shown(data, (32, 32)) - plain).max() <= 2


def test_the_same_displayed_pixels_get_the_same_probabilities_of_the_shipped_model() -> None:
    model = checkpoint.load(Path(models.__file__).parent / "zoo" / "cifar100-mtl").model
    image = model.config.input
    plan = model.plan(model.space.largest, {"image": image.shape})
    rgba = Image.fromarray(np.dstack([PIXELS, ALPHAS]))
    flat = Image.fromarray(on_white(PIXELS, ALPHAS).astype(np.uint8))
    pairs = [
        (encoded(stored_for(PIXELS, 6), form, exif=exif_of(6), **options), encoded(PIXELS))
        for form, options in LOSSLESS
    ]
    pairs += [
        (encoded(Image.fromarray(GREYS.astype(np.uint16) * 257)), encoded(GREYS)),
        (encoded(rgba), encoded(flat)),
        (encoded(rgba, "WEBP", lossless=True, exact=True), encoded(flat)),
    ]
    for one, other in pairs:
        found, expected = (
            TorchBackend().run(plan, {"image": image.decode(Encoded(data))[None]})
            for data in (one, other)
        )
        for task in model.tasks:
            torch.testing.assert_close(
                found[task].softmax(1), expected[task].softmax(1), atol=1e-6, rtol=0
            )


def test_the_size_is_known_without_decoding() -> None:
    for form, options in [*LOSSLESS, ("WEBP", {"quality": 50}), ("JPEG", {"quality": 95})]:
        assert size_of(encoded(PIXELS, form, **options)) == SIZE
        assert size_of(encoded(PIXELS, form, exif=exif_of(6), **options)) == SIZE


ZEROS = zlib.compress(bytes(50 * 2**20), 9)
DATA = encoded(PIXELS)


def with_chunks(*chunks: bytes) -> bytes:
    return DATA[:33] + b"".join(chunks) + DATA[33:]


@pytest.mark.parametrize(
    "data",
    [
        with_chunks(*[chunk(b"zTXt", b"k\0\0" + ZEROS)] * 300),
        with_chunks(*[chunk(b"iTXt", b"k\0\1\0\0\0" + ZEROS)] * 300),
        with_chunks(chunk(b"IHDR", DATA[16:29].replace(b"\0\0\0\x17", b"\0\0\x40\0"))),
        with_chunks(chunk(b"iCCP", b"p\0\0" + ZEROS)),
        with_chunks(chunk(b"eXIf", b"II*\0" + struct.pack("<IH", 8, 65535) + bytes(12 * 65535))),
        with_chunks(chunk(b"acTL", struct.pack(">II", 2**31, 0))),
        with_chunks(chunk(b"acTL", b"")),
        with_chunks(chunk(b"fcTL", b"")),
        with_chunks(chunk(b"pHYs", b""), chunk(b"sRGB", b""), chunk(b"tEXt", b"\xff" * 99)),
        DATA[:-12] + chunk(b"zTXt", b"k\0\0" + ZEROS) * 300 + DATA[-12:],
    ],
)
def test_what_surrounds_the_pixels_is_not_read_however_much_it_would_become(data: bytes) -> None:
    np.testing.assert_array_equal(shown(data), PIXELS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (with_chunks(*[chunk(b"teXt", b"")] * 70_000), "more than 65,536 pieces"),
        (b"\xff\xd8" + b"\xff\xfe\0\2" * 70_000 + b"\xff\xd9", "more than 65,536 pieces"),
        (encoded(PIXELS, "JPEG")[:2] + b"\xff" * 70_000, "more than 65,536 pieces"),
        (DATA[:33] + DATA[-12:], "it has no pixels"),
    ],
)
def test_files_beyond_a_limit_or_without_sense_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidImageError, match=message):
        displayed(data, *SIZE)


@pytest.mark.parametrize("given", [b"", b"\1", b"\0\0\0", bytes(7)])
def test_a_colour_key_of_a_wrong_length_is_passed_over_as_viewers_do(given: bytes) -> None:
    grey = png_of(GREYS[..., None], 8, 0, chunk(b"tRNS", given))
    np.testing.assert_array_equal(shown(grey), shown(png_of(GREYS[..., None], 8, 0)))
    colour = png_of(PIXELS, 8, 2, chunk(b"tRNS", given))
    np.testing.assert_array_equal(shown(colour), PIXELS)


def test_a_progressive_jpeg_may_not_have_scans_without_end() -> None:
    data = encoded(PIXELS, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    assert shown(data).shape == (17, 23, 3)
    with pytest.raises(InvalidImageError, match="more than 50 scans"):
        displayed(data[:-2] + data[last:-2] * 51 + data[-2:], *SIZE)
    np.testing.assert_array_equal(shown(data + b"\xff\xda" * 200), shown(data))  # behind its end
    comments = b"\xff\xfe\0\2" * 70_000 + b"\xff\xda\0\2" * 60
    with pytest.raises(InvalidImageError, match="more than 65,536 pieces"):
        displayed(data[:-2] + comments, *SIZE)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(150))
def test_broken_files_are_an_image_or_refused_with_a_reason(seed: int) -> None:
    rng = np.random.default_rng(seed)
    form, options = [*LOSSLESS, ("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {})][
        seed % 5
    ]
    good = encoded(PIXELS, form, exif=exif_of(6), icc_profile=GOOD, **options)
    for _ in range(20):
        data = bytearray(good)
        for at in rng.integers(0, len(data), rng.integers(1, 8)):
            data[at] = rng.integers(0, 256)
        cut = bytes(data[: rng.integers(0, len(data))]) if rng.random() < 0.3 else bytes(data)
        try:
            image = displayed(cut, 32, 32)
        except InvalidImageError as error:
            reason = str(error)
        else:
            reason = f"{image.mode} {image.size}"
        assert re.match(r"RGB \(32, 32\)|the image (cannot be|has|is empty)|not an image", reason)
        assert not re.search("0x[0-9a-f]{6}", reason)
