"""What clients get wrong, and what each is told."""

from __future__ import annotations

import json
from typing import NamedTuple

from tests.server.conftest import MAX_BODY_BYTES, MAX_IMAGES
from tests.server.samples import claiming, form, image, text_of

JSON = "application/json"
FORM = "multipart/form-data; boundary=edge"
FILE = 'name="image"; filename="a.png"'
PNG = image()
TEXT = text_of(PNG)


class Case(NamedTuple):
    """A request and what its refusal must say."""

    name: str
    body: bytes | str
    message: str
    field: str | None = None
    status: int = 422
    error_type: str = "invalid_request"
    content_type: str | None = JSON


# Fields of the question, the same for /v1/infer and /v1/plan.
MANY_WEIGHTS = ",".join(f'"{i}": -1' for i in range(9999))
QUESTIONS = [
    Case("unknown task", '"tasks": ["bird"]', "unknown task 'bird'; one of .*fish", "tasks"),
    Case("task twice", '"tasks": ["fish", "fish"]', "must name at least one, each once", "tasks"),
    Case("no task", '"tasks": []', "at least 1 item", "tasks"),
    Case("task as text", '"tasks": "fish"', "tasks='fish' must be a valid array", "tasks"),
    Case("task as number", '"tasks": ["fish", 3]', r"tasks\[1\]=3 must be a .*string", "tasks[1]"),
    Case("endless task", f'"tasks": ["{"x" * 500}"]', "at most 200 characters", "tasks[0]"),
    Case("many tasks", f'"tasks": [{"1," * 90_000}1]', r"tasks\[0\]=1 must be", "tasks[0]"),
    Case("model as number", '"model": 7', "model=7 must be a valid string", "model"),
    Case(
        "unknown model",
        '"model": "huge"',
        r"model='huge' is not served; one of \['tiny'\]",
        "model",
        404,
        "unknown_model",
    ),
    Case(
        "negative weight",
        '"preferences": {"fish": -1}',
        "preferences.fish=-1 must be greater than or equal to 0",
        "preferences.fish",
    ),
    Case(
        "weight NaN",
        '"preferences": {"fish": NaN}',
        "preferences.fish=nan must be a finite number",
        "preferences.fish",
    ),
    Case(
        "weight Infinity",
        '"preferences": {"fish": Infinity}',
        "preferences.fish=inf must be a finite number",
        "preferences.fish",
    ),
    Case(
        "weight as truth",
        '"preferences": {"fish": true}',
        "preferences.fish=True must be a valid number",
        "preferences.fish",
    ),
    Case(
        "weight as text",
        '"preferences": {"fish": "1"}',
        "preferences.fish='1' must be a valid number",
        "preferences.fish",
    ),
    Case(
        "weights all zero",
        '"preferences": {"fish": 0, "people": 0.0}',
        "at least one task a weight above 0",
        "preferences",
    ),
    Case("no weights", '"preferences": {}', "at least 1 item", "preferences"),
    Case("weights as list", '"preferences": [1]', "must be an object", "preferences"),
    Case(
        "weight of a task not asked",
        '"tasks": ["fish"], "preferences": {"people": 1}',
        r"the task is not asked for; tasks=\['fish'\]",
        "preferences.people",
    ),
    Case(
        "weight of an unknown task",
        '"preferences": {"bird": 1}',
        "the task is not asked for",
        "preferences.bird",
    ),
    Case("many weights", f'"preferences": {{{MANY_WEIGHTS}}}', "9999 faults"),
    Case("unknown field", '"task": ["fish"]', "task is not a field; allowed: model, ", "task"),
    Case("many unknown fields", ",".join(f'"x{i}": 1' for i in range(9999)), "9999 faults"),
    Case(
        "unknown budget",
        '"budget": {"watts": 3}',
        "budget.watts is not a field; allowed: flops, macs, fraction, min_quality",
        "budget.watts",
    ),
    Case("priority 1000", '"priority": 1000', "less than or equal to 999", "priority"),
    Case("budget as number", '"budget": 5', "budget=5 must be an object", "budget"),
    Case("budget 0", '"budget": {"macs": 0}', "must be greater than 0", "budget.macs"),
    Case("budget -1", '"budget": {"flops": -1}', "must be greater than 0", "budget.flops"),
    Case("budget NaN", '"budget": {"macs": NaN}', "must be a finite", "budget.macs"),
    Case("budget infinite", '"budget": {"macs": -Infinity}', "must be a finite", "budget.macs"),
    Case("budget 1e400", '"budget": {"macs": 1e400}', "must be a finite", "budget.macs"),
    Case("budget 1e500 in digits", f'"budget": {{"macs": 1{"0" * 500}}}', "number", "budget.macs"),
    Case("budget 1e5000 in digits", f'"budget": {{"macs": 1{"0" * 5000}}}', "number out of range"),
    Case("budget as truth", '"budget": {"macs": true}', "macs=True must be", "budget.macs"),
    Case("budget as text", '"budget": {"macs": "9"}', "macs='9' must be", "budget.macs"),
    Case("budget as list", '"budget": {"macs": [9]}', "a list of 1 must be", "budget.macs"),
    Case("all and more", '"budget": {"fraction": 1.01}', "less than or eq", "budget.fraction"),
    Case("quality 0", '"budget": {"min_quality": 0}', "greater than 0", "budget.min_quality"),
]  # fmt: skip


class Wrong(NamedTuple):
    """Bytes that are no image, and what is said of them."""

    name: str
    content: bytes
    message: str


LARGER = {kind: image(1, 64, 64, kind) for kind in ("PNG", "JPEG", "WEBP")}
IMAGES = [
    Wrong("empty", b"", r"the image is empty \(0 bytes\)"),
    Wrong("text", b"hello", "not an image; allowed: PNG, JPEG, WEBP"),
    Wrong("GIF", b"GIF89a" + b"\0" * 100, "not an image"),
    Wrong("only a PNG's start", PNG[:8], "not an image|cannot be"),
    *(
        Wrong(f"{kind} cut to {part:.0%}", file[: int(len(file) * part)], "not an image|cannot be")
        for kind, file in LARGER.items()
        for part in (0.02, 0.5)
    ),
    Wrong("0 x 0", claiming(0, 0), "not an image|cannot be"),
    Wrong("0 x 9", claiming(0, 9), "not an image|cannot be"),
    Wrong("900 megapixels", claiming(30_000, 30_000), "more than 40,000,000 pixels"),
    Wrong("49 megapixels", claiming(7_000, 7_000), "more than 40,000,000 pixels"),
    Wrong("wrong checksum", PNG[:40] + bytes([PNG[40] ^ 1]) + PNG[41:], "not an image|cannot be"),
]


REQUEST = 'name="request"'
BODIES = [
    Case("empty body", "", "the body is not JSON"),
    Case("no JSON", "image=abc", "the body is not JSON"),
    Case("JSON cut short", '{"image": "abc', "the body is not JSON: EOF"),
    Case("JSON and more", "{} {}", "the body is not JSON: trailing"),
    Case("list", "[]", "the body must be an object, not a list of 0"),
    Case("number", "5", "the body must be an object, not 5"),
    Case("null", "null", "must be an object"),
    Case("deep lists", "[" * 10_000, "recursion limit"),
    Case("deep objects", '{"a":' * 10_000, "recursion limit"),
    Case("deep value", f'{{"image": {"[" * 10_000}', "recursion limit"),
    Case("no UTF-8", b'{"model": "\xff\xfe"}', "the body is not JSON"),
    Case("UTF-16", '{"model": "tiny"}'.encode("utf-16"), "the body is not JSON"),
    Case("half a character", r'{"model": "\ud800"}', "the body is not JSON"),
    Case("no image", "{}", "image is required: base64 text, or use images", "image"),
    Case("null image", '{"image": null}', "image is required", "image"),
    Case("both", f'{{"image": "{TEXT}", "images": ["{TEXT}"]}}', "use one", "images"),
    Case("no images", '{"images": []}', "at least 1 item", "images"),
    Case("number for image", '{"image": 5}', "image=5 must be a valid string", "image"),
    Case("list for image", f'{{"image": ["{TEXT}"]}}', "a list of 1 must be", "image"),
    Case("text for images", f'{{"images": "{TEXT}"}}', "must be a valid array", "images"),
    Case("null in images", '{"images": [null]}', r"images\[0\]=None must be", "images[0]"),
    Case("many wrong images", f'{{"images": [{"1," * 90_000}1]}}', r"\[0\]=1 must", "images[0]"),
    Case(
        "too many images",
        json.dumps({"images": [TEXT] * (MAX_IMAGES + 1)}),
        r"images has 5 entries; at most 4 \(max_images\)",
        "images",
    ),
    Case("no base64", '{"image": "%%%"}', "image is not base64", "image"),
    Case("base64 cut short", f'{{"image": "{TEXT[:-3]}"}}', "image is not base64", "image"),
    Case("URL", '{"image": "https://x/a.png"}', "image is not base64", "image"),
    Case("wrong data URL", '{"image": "data:image/png,abc"}', "a data URL must read", "image"),
    Case(
        "too large",
        f'{{"image": "{"A" * MAX_BODY_BYTES}"}}',
        r"the body exceeds 1000000 bytes \(max_body_bytes\)",
        None,
        413,
        "payload_too_large",
    ),
]  # fmt: skip
FORMS = [
    Case("form without file", form((REQUEST, b"{}")), "part image is required", "image"),
    Case("form without part", form(), "part image is required", "image"),
    Case("image as text", form(('name="image"', TEXT.encode())), "must be a file", "image"),
    Case("unknown part", form((FILE, PNG), ('name="budget"', b"{}")), "'budget' is not", "budget"),
    Case("two requests", form((FILE, PNG), *[(REQUEST, b"{}")] * 2), "more than once", "request"),
    Case("many texts", form((FILE, PNG), *[(REQUEST, b"{}")] * 99), "Too many fields"),
    Case("too many files", form(*[(FILE, PNG)] * 5), "5 entries; at most 4", "image"),
    Case("far too many files", form(*[(FILE, PNG)] * 50), "image has .* at most 4|Too many files"),
    Case("request without JSON", form((FILE, PNG), (REQUEST, b"fish")), "request is not JSON"),
    Case("request without text", form((FILE, PNG), (REQUEST, b"\xff\xfe")), "request is not JSON"),
    Case("image in text", form((FILE, PNG), (REQUEST, b'{"image": ""}')), "not a field", "image"),
    Case("part without name", form(('x="y"', b"")), '"name" must be provided'),
    Case("no last boundary", form((FILE, PNG), (REQUEST, b"{}"))[:-8], "does not end with"),
    Case("last part gone", form((FILE, PNG), (REQUEST, b"{}"))[:-50], "does not end with"),
    Case("other boundary", form((FILE, PNG), boundary="other"), "does not end with the boundary"),
    Case("broken start", b"hello" + form((FILE, PNG)), "Invalid multipart data"),
    Case("broken header", b"--edge\r\nA\0: b\r\n\r\nx\r\n--edge--\r\n", "Invalid multipart data"),
    Case("nothing", b"", "does not end with the boundary"),
    Case(
        "too large a form",
        form((FILE, b"x" * MAX_BODY_BYTES)),
        "the body exceeds 1000000 bytes",
        None,
        413,
        "payload_too_large",
    ),
]  # fmt: skip
UNREADABLE = "must be application/json or multipart/form-data"
TYPES = [
    Case("no boundary", form(), "Missing boundary", content_type="multipart/form-data"),
    Case("empty boundary", form(), "multipart", content_type="multipart/form-data; boundary="),
    *(
        Case(
            str(kind),
            f'{{"image": "{TEXT}"}}',
            UNREADABLE,
            None,
            415,
            "unsupported_media_type",
            kind,
        )
        for kind in (None, "", "text/plain", "image/png", "application/x-www-form-urlencoded")
    ),
]
