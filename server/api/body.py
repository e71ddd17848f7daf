"""Reading request bodies: JSON or multipart, into checked fields and uploads."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from server.api.json_size import check_json
from server.api.rheostat.schema import InferBody, PlanBody
from server.errors import (
    ClientGoneError,
    InvalidRequestError,
    UnsupportedMediaError,
    shown,
)
from server.http.forms import invalid
from server.inputs.sources import Upload

_JSON = "application/json"
_FORM = "multipart/form-data"
_BODY = "body"  # of a request's state: what has been read
_MAX_TEXTS = 16  # parts that are no files; a second one gets an error that names it

BodyT = TypeVar("BodyT", bound=BaseModel)


class Parsed(NamedTuple):
    """A request with its items taken out.

    Attributes:
        body: The question.
        uploads: Images, each an item.
        given: One item or several, inputs by name, where there are no uploads.
    """

    body: PlanBody
    uploads: list[Upload]
    given: dict[str, Any] | list[dict[str, Any]] | None = None


async def read_json(request: Request, model: type[BodyT]) -> BodyT:
    """Read a JSON body.

    Raises:
        ClientError: If it is something else.
    """
    _check_type(request, _JSON)
    body = await read_body(request)
    await check_json(body)
    return parse(model, body)


async def read_infer(request: Request, max_images: int) -> Parsed:
    """Read a JSON body, or a multipart one with images.

    Raises:
        ClientError: If it is something else, has no image or too many.
    """
    if _check_type(request, _JSON, _FORM) == _JSON:
        content = await read_body(request)
        await check_json(content)
        body = parse(InferBody, content)
        if body.inputs is not None and body.image is None and body.images is None:
            return Parsed(body, [], body.inputs)
        uploads = _from_fields(body)
        check_count("images", len(uploads), max_images, "max_images")
        return Parsed(body, uploads)
    content = await read_body(request)
    _check_complete(content, request.headers["content-type"])
    read = Request(request.scope, _again(content))
    try:
        # Room for one image too many, for our own error, and for the request as a file.
        async with read.form(max_files=max_images + 2, max_fields=_MAX_TEXTS) as form:
            return await _from_form(form, max_images)
    except HTTPException as error:
        raise InvalidRequestError(f"the multipart body cannot be read: {error.detail}") from None


def _check_type(request: Request, *allowed: str) -> str:
    found = field_of(request, b"content-type")
    kind = found.partition(";")[0].strip().lower()
    if kind not in allowed:
        raise UnsupportedMediaError(f"content-type={shown(found)} must be {' or '.join(allowed)}")
    return kind


def field_of(request: Request, name: bytes) -> str:
    """Return the first header field of a name; empty if there is none."""
    for known, value in request.scope["headers"]:
        if known == name:
            return str(value, "latin-1")
    return ""


async def read_body(request: Request) -> bytes:
    """Return the whole body, also again; ClientGoneError if the client leaves before its end."""
    known: bytes | None = request.scope["state"].get(_BODY)
    if known is not None:
        return known
    parts: list[bytes] = []
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError("the client closed the connection")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            break
    body = request.scope["state"][_BODY] = b"".join(parts)
    return body


def _again(body: bytes) -> Receive:
    """Return what gives a body that has been read to whoever reads it anew."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def parse(model: type[BodyT], text: bytes | str, whole: str = "the body") -> BodyT:
    """Return checked JSON; InvalidRequestError, which calls it ``whole``, if it is none."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise invalid(error, model, whole) from None


def _from_fields(body: InferBody) -> list[Upload]:
    if body.image is not None and body.images is not None:
        raise InvalidRequestError("image and images are both given; use one", "images")
    if body.inputs is not None:
        raise InvalidRequestError("inputs and images are both given; use one", "inputs")
    if body.image is not None:
        return [Upload("image", body.image)]
    if body.images is None:
        raise InvalidRequestError(
            "image is required: base64 text, or use images or inputs", "image"
        )
    return [Upload(f"images[{i}]", text) for i, text in enumerate(body.images)]


def _check_complete(body: bytes, content_type: str) -> None:
    """Refuse a body without its last boundary: the parser would drop the part that it ends."""
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if boundary and b"--" + boundary + b"--" not in body:
        raise InvalidRequestError(
            "the multipart body cannot be read: it does not end with the boundary of its "
            "content-type"
        )


async def _from_form(form: FormData, max_images: int) -> Parsed:
    """Read the parts ``image``, which may repeat, and ``request``."""
    body, num_requests = PlanBody(), 0
    files: list[UploadFile] = []
    for name, part in form.multi_items():
        if name == "request":
            num_requests += 1
            text = await part.read() if isinstance(part, UploadFile) else part
            await check_json(text if isinstance(text, bytes) else text.encode())
            body = parse(PlanBody, text, "part request")
        elif name != "image":
            raise InvalidRequestError(
                f"part {shown(name)} is not allowed; allowed: image, request", name[:80]
            )
        elif isinstance(part, UploadFile):
            files.append(part)
        else:
            raise InvalidRequestError("part image must be a file, with a filename", "image")
    if num_requests > 1:
        raise InvalidRequestError("part request is given more than once", "request")
    if not files:
        raise InvalidRequestError("part image is required: one or more files", "image")
    check_count("image", len(files), max_images, "max_images")
    uploads = [Upload(f"image[{i}]", await file.read()) for i, file in enumerate(files)]
    return Parsed(body, uploads)


def check_count(field: str, num_entries: int, most: int, setting: str) -> None:
    """Refuse a list with more entries than a setting allows.

    Raises:
        InvalidRequestError: Naming the field, its length, the limit and the setting.
    """
    if num_entries > most:
        raise InvalidRequestError(
            f"{field} has {num_entries} entries; at most {most} ({setting})", field
        )
