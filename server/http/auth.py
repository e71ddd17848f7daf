"""Every path has a scope (`server.http.scopes`), and every request needs a key of that scope."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Mapping

from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Receive, Scope, Send

from server.clients.caller import ANYONE, Caller
from server.clients.clients import Clients
from server.clients.counters import ClientCounters, Turned
from server.clients.directory import Directory
from server.clients.keys import Key, id_of
from server.clients.keys import Scope as KeyScope
from server.errors import (
    AuthenticationError,
    DatabaseError,
    ModelNotReadyError,
    PermissionDeniedError,
    UnknownPathError,
)
from server.http.routed import route_path
from server.http.scopes import scope_of
from server.settings import Settings, SettingsError

log = logging.getLogger(__name__)

_KEY_HEADERS = (b"authorization", b"x-api-key")


class Authenticator:
    """Whether requests without a key come in, and who sends one."""

    def __init__(
        self,
        directory: Directory,
        counters: ClientCounters,
        settings: Settings,
    ) -> None:
        """Create a authenticator that is shut until `open` is called.

        Args:
            directory: Of clients and keys.
            counters: Told of everybody who is turned away.
            settings: Where the server listens, whether it is meant to be open, and for how long
                keys are good while the database is away.
        """
        self._directory = directory
        self._counters = counters
        self._host = settings.host
        self._is_open = settings.open
        self._grace_s = settings.database_grace_s
        self._is_ready = False
        self._is_keyless = False

    def open(self) -> None:
        """Decide whether keys are needed, once the directory has been read.

        Raises:
            SettingsError: As `check`.
        """
        self.check()
        self._is_ready = True
        self._is_keyless = is_loopback(self._host) and not self._directory.has_keys
        if self._is_keyless:
            log.warning("no keys exist: everybody on this machine may do everything")
        elif self._is_open:
            log.warning("open: requests without a key may infer and read metrics")

    def check(self) -> None:
        """Refuse to serve the world without keys.

        Raises:
            SettingsError: If there are none, others than this machine could connect, and nobody
                said that this is meant.
        """
        if not (self._directory.has_keys or self._is_open or is_loopback(self._host)):
            raise SettingsError(
                f"host={self._host} can be reached from elsewhere and there are no keys: make "
                "one (rheostat keys create --scope admin), or serve without (--open)"
            )

    async def authenticate(self, scope: KeyScope | None, headers: Mapping[str, str]) -> Caller:
        """Return who sends a request.

        Args:
            scope: Needed; None for what is public.
            headers: In lower case, or what stands for them; the key is ``authorization: Bearer
                KEY`` or ``x-api-key: KEY``.

        Raises:
            AuthenticationError: If a key is needed and there is no valid one.
            PermissionDeniedError: If it has another scope.
            DatabaseError: If the database has been away for too long to trust any key.
            ModelNotReadyError: Before the directory has been read.
        """
        if scope is None:
            return ANYONE
        if not self._is_ready:
            raise ModelNotReadyError("the server is starting")
        if self._is_keyless and self._directory.has_keys:
            self._is_keyless = False  # for good: revoking a key opens nothing
            log.warning("a key exists now: requests need one")
        key_text = _key_in(headers)
        # Clients of other servers send whatever is not ours; one of ours is always checked.
        if key_text is None or id_of(key_text) is None:
            if self._is_keyless or (self._is_open and scope is not KeyScope.ADMIN):
                return ANYONE
            if key_text is None:
                raise self._unauthenticated(
                    Turned.MISSING, "a key is needed: Authorization: Bearer KEY, or x-api-key"
                )
        elif not self._directory.knows(key_text):
            await self._directory.caught_up()  # it may just have been made elsewhere
        return self._caller(self._valid(key_text, scope))

    def _valid(self, key_text: str, scope: KeyScope) -> Key:
        key = self._directory.key(key_text)
        away_s = self._directory.away_s
        if key is None and away_s and id_of(key_text) is not None:
            # It may have been made elsewhere since; a 401 would say that it never will be good.
            self._counters.turned_away(Turned.UNAVAILABLE)
            raise DatabaseError(
                f"the key is not known here; the database of keys has been away for {away_s:.0f} s"
            )
        if key is None:
            raise self._unauthenticated(Turned.UNKNOWN, "the key is not known")
        if key.revoked is not None:
            raise self._unauthenticated(Turned.REVOKED, "the key has been revoked")
        if key.ended(self._directory.now) is not None:
            raise self._unauthenticated(Turned.EXPIRED, "the key has expired")
        if scope not in key.scopes:
            self._counters.turned_away(Turned.SCOPE)
            raise PermissionDeniedError(
                f"the key has not the scope {scope}, only {', '.join(sorted(key.scopes))}"
            )
        if away_s > self._grace_s:
            self._counters.turned_away(Turned.UNAVAILABLE)
            raise DatabaseError(
                f"the database of keys has been away for {away_s:.0f} s; after {self._grace_s:g} s "
                "(database_grace_s) no key is trusted"
            )
        self._directory.note_use(key)
        return key

    def _caller(self, key: Key) -> Caller:
        if key.client is None:
            return ANYONE
        caller = self._directory.caller(key.client)
        if caller is None:  # deleted with its keys, which are taken over together
            raise self._unauthenticated(Turned.UNKNOWN, "the key is not known")
        return caller

    def _unauthenticated(self, reason: Turned, message: str) -> AuthenticationError:
        self._counters.turned_away(reason)
        return AuthenticationError(message)


class Access:
    """Let in what has a key of the path's scope, and say in the scope's state who it is."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        match scope["type"]:
            case "http":
                needed = scope_of(route_path(scope))
                headers = {
                    name.decode("latin-1"): value.decode("latin-1")
                    for name, value in scope["headers"]
                    if name in _KEY_HEADERS
                }
                caller = await self._authenticator.authenticate(needed, headers)
                scope.setdefault("state", {})["caller"] = caller
            case "lifespan":
                pass
            case kind:
                raise UnknownPathError(f"nothing answers to {kind}")
        await self._app(scope, receive, send)


async def check_exposure(settings: Settings) -> None:
    """Say before anything is loaded what would keep the server from starting.

    Raises:
        SettingsError: As `Authenticator.check`.
        DatabaseError: If the database cannot be used.
    """
    counters = ClientCounters(CollectorRegistry())
    clients = Clients.of(settings, counters)
    async with clients.running():
        Authenticator(clients.directory, counters, settings).check()


def is_loopback(host: str) -> bool:
    """Return whether only this machine can connect to an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name may lead anywhere


def _key_in(headers: Mapping[str, str]) -> str | None:
    kind, _, text = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return text.strip()
    return headers.get("x-api-key")
