"""Images of a user: a folder of files, or one with a folder per class."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from models.files import reading
from search.offline.errors import DataError

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")


class UserImage(NamedTuple):
    """One image.

    Attributes:
        file: Where it is.
        label: Name of its class's folder; None where there are no such folders.
        digest: Of its bytes.
    """

    file: Path
    label: str | None
    digest: str


def read_images(folder: Path) -> list[UserImage]:
    """Find images by name: either all lie in the folder, or each in a folder of its class.

    What does not look like an image by its first bytes is refused; pixels are decoded later.

    Raises:
        ValueError: Naming the file or folder at fault.
    """
    with reading(folder, DataError):
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        classes = [path for path in entries if path.is_dir()]
        loose = [path for path in entries if path.suffix.lower() in SUFFIXES and path.is_file()]
        if classes and loose:
            raise DataError(f"{folder} has images, {loose[0].name}, beside folders of classes")
        if not classes:
            return [_found(path, None) for path in loose]
        found = []
        for one in classes:
            own = [p for p in sorted(one.iterdir()) if p.suffix.lower() in SUFFIXES]
            if not own:
                raise DataError(f"{one} has no images: {', '.join(SUFFIXES)}")
            found += [_found(path, one.name) for path in own]
        return found


def _found(path: Path, label: str | None) -> UserImage:
    data = path.read_bytes()
    try:
        Image.open(path).close()
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path}: {error}") from None
    return UserImage(path, label, sha256(data).hexdigest())
