from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from models.files import read_json, reading, replacing


class NamedError(ValueError):
    pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"[NaN]", "not JSON: NaN is no number"),
        (b"[-Infinity]", "not JSON: -Infinity is no number"),
        (b"1" * 10_000, "not JSON: Exceeds the limit"),
    ],
)
def test_what_is_no_json_is_one_error_that_names_the_file(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(NamedError, match=f"{path}: {message}"):
        read_json(path, NamedError)


def test_what_is_not_there_or_no_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        with pytest.raises(NamedError):
            read_json(path, NamedError)


def raising(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


def recursing() -> None:
    recursing()


PanicException = type("PanicException", (BaseException,), {})  # as Rust's libraries raise it


@pytest.mark.parametrize(
    "function",
    [
        recursing,
        lambda: 1 // 0,
        raising(IndexError("list index out of range")),
        raising(KeyError("x")),
        lambda: None.x,  # type: ignore[attr-defined]
        lambda: int(float("inf")),
        raising(MemoryError()),
        raising(OSError(5, "Input/output error")),
        raising(RuntimeError("several\nlines")),
        raising(PanicException("index out of bounds")),
        raising(AssertionError()),
    ],
)
def test_any_failure_becomes_the_error_asked_for(function: Callable[[], object]) -> None:
    with pytest.raises(NamedError, match=r"^/a: .") as caught, reading(Path("/a"), NamedError):
        function()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), NamedError("/b: own")])
def test_what_is_not_the_files_doing_goes_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, reading(Path("/a"), NamedError):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with replacing(tmp_path / "a") as part:
            part.write_text("x")
            part.chmod(0o600)  # as some libraries do
    finally:
        os.umask(before)
    (path,) = tmp_path.iterdir()
    assert (path.name, path.read_text()) == ("a", "x")
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def interrupted() -> None:
        with replacing(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert path.read_text() == "old"
