"""All indexes: each client's own, in memory, or in a folder that is read again after a restart."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection
from hashlib import sha256
from pathlib import Path

from server.errors import InvalidRequestError, RheostatError, UnknownIndexError, shown
from server.indexes.index import Index, IndexFileError
from server.settings import Settings, SettingsError

_MOST = 1000  # of all clients
_SUFFIX = ".safetensors"


class Indexes:
    """For one event loop. Where there is a folder, its files say what there is.

    So several processes of one server share it. What was read is kept until the file changes.
    """

    def __init__(self, folder: Path | None, max_documents: int, max_bytes: int) -> None:
        """Begin with what is in the folder.

        Args:
            folder: None to keep indexes in memory only.
            max_documents: Of one index.
            max_bytes: Of all together.
        """
        self._folder = folder
        self.max_documents = max_documents
        self._max_bytes = max_bytes
        self._known: OrderedDict[str, tuple[int, Index]] = OrderedDict()  # with the file's time

    @classmethod
    def of(cls, settings: Settings) -> Indexes:
        """Return them as the settings say.

        Raises:
            SettingsError: If there is a folder that is none.
        """
        folder = settings.indexes
        if folder is not None and folder.exists() and not folder.is_dir():
            raise SettingsError(f"indexes={folder} must be a folder")
        max_bytes = settings.max_index_bytes if folder or settings.num_http_workers <= 1 else 0
        return cls(folder, settings.max_index_documents, max_bytes)

    async def get(self, client: str, name: str) -> Index:
        """Return an index.

        Raises:
            UnknownIndexError: If the client has none of that name.
        """
        key = _key(client, name)
        if self._folder is not None:
            await asyncio.to_thread(self._read, self._folder / f"{key}{_SUFFIX}", key)
        if key not in self._known:
            raise UnknownIndexError(f"index={shown(name)} does not exist", "index")
        return self._known[key][1]

    async def all_of(self, client: str) -> list[Index]:
        """Return a client's indexes, by name."""
        prefix = _key(client, "").partition("-")[0]
        if self._folder is not None:
            for path in sorted(self._folder.glob(f"{prefix}-*{_SUFFIX}")):
                await asyncio.to_thread(self._read, path, path.stem)
        found = [one for key, (_, one) in self._known.items() if key.startswith(f"{prefix}-")]
        return sorted(found, key=lambda one: one.name)

    async def put(self, index: Index) -> None:
        """Keep an index, in place of one of the same name.

        Raises:
            InvalidRequestError: If there is no room.
        """
        key = _key(index.client, index.name)
        sizes = await asyncio.to_thread(self._sizes)
        sizes.pop(key, None)
        held = sum(sizes.values()) + index.num_bytes
        if held > self._max_bytes or len(sizes) >= _MOST:
            raise InvalidRequestError(
                f"index {shown(index.name)} holds {index.num_bytes} bytes, and {len(sizes)} others "
                f"{held - index.num_bytes}; together at most {self._max_bytes} (max_index_bytes) "
                f"and {_MOST} indexes are kept",
                "documents",
            )
        if self._folder is None:
            self._known[key] = (0, index)
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(index.save, self._folder / f"{key}{_SUFFIX}")

    async def delete(self, client: str, name: str) -> None:
        """Forget an index; UnknownIndexError if there is none."""
        await self.get(client, name)
        key = _key(client, name)
        self._known.pop(key, None)
        if self._folder is not None:
            (self._folder / f"{key}{_SUFFIX}").unlink(missing_ok=True)

    def _read(self, path: Path, key: str) -> None:
        """Take in what a file holds now."""
        try:
            changed = path.stat().st_mtime_ns
        except OSError:
            self._known.pop(key, None)
            return
        if self._known.get(key, (-1, None))[0] != changed:
            try:
                self._known[key] = (changed, Index.load(path))
            except IndexFileError as error:
                raise RheostatError(str(error)) from None

    def _sizes(self) -> dict[str, int]:
        if self._folder is None:
            return {key: one.num_bytes for key, (_, one) in self._known.items()}
        files: Collection[Path] = list(self._folder.glob(f"*{_SUFFIX}"))
        return {path.stem: path.stat().st_size for path in files}


def _key(client: str, name: str) -> str:
    """Return what tells indexes apart and may name a file."""
    return f"{sha256(client.encode()).hexdigest()[:16]}-{sha256(name.encode()).hexdigest()[:32]}"
