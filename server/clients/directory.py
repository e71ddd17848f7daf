"""All clients and keys in memory, as the database had them a moment ago."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import suppress

from server.clients.caller import Caller
from server.clients.keys import Key, id_of
from server.clients.patience import patience
from server.clients.store import Store
from server.errors import DatabaseError

log = logging.getLogger(__name__)

_POLL_S = 0.25  # changes made elsewhere are seen within this and one answer of the database
_ANSWER_S = 2.0  # the database has to answer within
_USES_S = 10.0  # when keys were last used is written this often


class Directory:
    """What requests are checked against, without asking the database.

    It holds every client and key; the store bounds how many there are. While the database is away
    it goes on with what it has, and says for how long it has been so.
    """

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        timer: Callable[[], float],
        on_change: Callable[[Collection[str]], None] = lambda client_ids: None,
    ) -> None:
        """Create a directory that knows nobody.

        Args:
            store: Polled.
            clock: Returns Unix time in seconds.
            timer: Returns seconds since whenever; nobody sets it.
            on_change: Told the ids of all clients when something has changed.
        """
        self._store = store
        self._clock = clock
        self._timer = timer
        self._on_change = on_change
        self._revision = -1
        self._callers: dict[str, Caller] = {}
        self._keys: dict[str, Key] = {}
        self._uses: dict[str, float] = {}  # by key; no more than there are keys
        self._uses_written = timer()
        self._seen = timer()
        self._is_away = False
        self._turn = asyncio.Lock()
        self._polling: asyncio.Task[None] | None = None
        self._next_poll = asyncio.Event()  # set when the poll that begins next has ended

    async def start(self) -> None:
        """Read everything, and begin to poll.

        Raises:
            DatabaseError: If it cannot be read.
        """
        await self.refresh()
        self._polling = asyncio.create_task(self._poll())

    async def close(self) -> None:
        """Stop polling."""
        if self._polling is not None:
            self._polling.cancel()
            with suppress(asyncio.CancelledError):
                await self._polling
            self._next_poll.set()
        with suppress(DatabaseError, TimeoutError):
            await self._write_uses()

    @property
    def has_keys(self) -> bool:
        """Whether a key was ever made and is not long forgotten; also one that has ended."""
        return bool(self._keys)

    @property
    def now(self) -> float:
        """The time that keys expire by."""
        return self._clock()

    @property
    def away_s(self) -> float:
        """For how long the database has not answered; 0 while it does."""
        return self._timer() - self._seen if self._is_away else 0.0

    def caller(self, client_id: str) -> Caller | None:
        """Return a client as requests carry it; None if there is none of that id."""
        return self._callers.get(client_id)

    def key(self, text: str) -> Key | None:
        """Return the record of a key, whatever became of it; None if it is no key."""
        found = self._keys.get(id_of(text) or "")
        return found if found is not None and found.matches(text) else None

    def knows(self, text: str) -> bool:
        """Return whether there is a key of the id that a text names, be the rest right or not."""
        return id_of(text) in self._keys

    async def caught_up(self) -> None:
        """Return once a poll that begins after this call has ended, whether it failed or not.

        What stands in the database by now is known then, without another question to it.
        """
        if self._polling is not None and not self._polling.done():
            await self._next_poll.wait()

    def note_use(self, key: Key) -> None:
        """Remember that a key was used just now; written later."""
        self._uses[key.id] = self._clock()

    async def refresh(self) -> None:
        """Take over what has changed.

        Raises:
            DatabaseError: If the database is away.
        """
        async with self._turn:
            try:
                async with patience(_ANSWER_S):
                    changes = await self._store.changes(self._revision)
            except TimeoutError:
                raise DatabaseError(f"the database has not answered for {_ANSWER_S:g} s") from None
            if self._is_away:
                log.info("the database is back")
            self._seen = self._timer()
            self._is_away = False
            if changes is None:
                return
            for client_id, profile in changes.clients.items():
                self._callers[client_id] = Caller(
                    client_id, profile.weight, profile.priority, profile
                )
            for client_id in self._callers.keys() - changes.client_ids:
                del self._callers[client_id]
            self._keys.update((key.id, key) for key in changes.keys)
            for key_id in self._keys.keys() - changes.key_ids:
                del self._keys[key_id]
            self._revision = changes.revision
        self._on_change(self._callers.keys())

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            this_poll, self._next_poll = self._next_poll, asyncio.Event()
            try:
                await self.refresh()
                if self._timer() - self._uses_written > _USES_S:
                    await self._write_uses()
            except Exception as error:  # whatever it is, the next poll may succeed
                if not isinstance(error, DatabaseError | TimeoutError):
                    log.exception("clients cannot be read")
                if not self._is_away:
                    log.error("%s; known clients go on as they are", error)
                self._is_away = True
            this_poll.set()

    async def _write_uses(self) -> None:
        self._uses_written = self._timer()
        uses = {key_id: used for key_id, used in self._uses.items() if key_id in self._keys}
        self._uses = {}
        if uses:
            async with patience(_ANSWER_S):
                await self._store.note_use(uses)
