"""Files from outside, in which nothing is worse than one clear error; files written whole.

Whatever a stranger's file makes a parser do (deep nesting, huge numbers, the wrong type) ends in
the caller's own error, which names the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

MAX_JSON_BYTES = 256 * 2**20  # tokenizers of a quarter of a million tokens have 20 MB


@contextmanager
def reading(path: Path, error: type[ValueError]) -> Iterator[None]:
    """Turn whatever goes wrong with a file into one error that names it.

    Args:
        path: Of the file, or of the folder.
        error: What is raised; errors of this kind are taken to name the file already.

    Raises:
        ValueError: Of the kind given.
    """
    try:
        yield
    except error:
        raise
    except RecursionError:
        raise error(f"{path}: nested too deeply") from None
    except MemoryError:
        raise error(f"{path}: it takes more memory than there is") from None
    except BaseException as found:
        # Rust's panics are no `Exception`; an interrupt is none of the file's doing.
        if not isinstance(found, Exception) and type(found).__name__ != "PanicException":
            raise
        raise error(f"{path}: {_told(found)}") from found


def read_json(path: Path, error: type[ValueError]) -> Any:
    """Return what a JSON file holds.

    Raises:
        ValueError: Of the kind given, naming the file.
    """
    with reading(path, error):
        if not path.is_file():
            raise error(f"{path} does not exist")
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise error(f"{path} has {size} bytes; at most {MAX_JSON_BYTES} are allowed")
        try:
            return json.loads(path.read_bytes(), parse_constant=_refuse)
        except ValueError as found:
            raise error(f"{path}: not JSON: {found}") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file as a whole or not at all; others may read or write it meanwhile.

    Its mode is that of any new file, also where a library would keep others from reading it.

    Yields:
        Where to write; when that is done it takes the place of ``path``.
    """
    part = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        part.touch()
        mode = part.stat().st_mode
        yield part
        part.chmod(mode)
        part.replace(path)
    finally:  # a full disk, or an interrupt
        part.unlink(missing_ok=True)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _told(found: BaseException) -> str:
    """Return an error on one line, with its kind where its text alone says little."""
    text = " ".join(str(found).split()) or "no message"
    return text if type(found) is ValueError else f"{type(found).__name__}: {text}"
