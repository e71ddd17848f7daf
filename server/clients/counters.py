"""What Prometheus is told of clients: series of those that are registered, and of no other."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter

from server.clients.profile import QuotaName


class Turned(StrEnum):
    """Why somebody was turned away at the authenticator."""

    MISSING = "missing"
    UNKNOWN = "unknown"
    EXPIRED = "expired"
    REVOKED = "revoked"
    SCOPE = "scope"
    UNAVAILABLE = "unavailable"


class ClientCounters:
    """Counts per client. Every series of a client starts at 0 and goes when the client goes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._ids: frozenset[str] = frozenset()
        self._requests = Counter(
            "rheostat_client_requests",
            "Requests charged to a client.",
            ["client"],
            registry=registry,
        )
        self._flops = Counter(
            "rheostat_client_flops",
            "Floating-point operations charged to a client (2 x MACs).",
            ["client"],
            registry=registry,
        )
        self._refused = Counter(
            "rheostat_quota_refusals",
            "Requests of a client refused by the quota that had too little left.",
            ["client", "quota"],
            registry=registry,
        )
        self._turned = Counter(
            "rheostat_access_refusals",
            "Requests refused because of their key.",
            ["reason"],
            registry=registry,
        )
        for reason in Turned:
            self._turned.labels(reason)

    def watch(self, client_ids: Collection[str]) -> None:
        """Set whose series there are."""
        ids = frozenset(client_ids)
        for client in ids - self._ids:
            self._requests.labels(client)
            self._flops.labels(client)
            for quota in QuotaName:
                self._refused.labels(client, quota)
        for client in self._ids - ids:
            self._requests.remove(client)
            self._flops.remove(client)
            for quota in QuotaName:
                self._refused.remove(client, quota)
        self._ids = ids

    def charged(self, client: str, num_requests: int = 0, flops: float = 0.0) -> None:
        """Record what a client was charged."""
        if client in self._ids:  # it may have been deleted meanwhile
            self._requests.labels(client).inc(num_requests)
            self._flops.labels(client).inc(flops)

    def refused(self, client: str, quota: QuotaName) -> None:
        """Record that a quota refused a request."""
        if client in self._ids:
            self._refused.labels(client, quota).inc()

    def turned_away(self, reason: Turned) -> None:
        """Record that a request was refused because of its key."""
        self._turned.labels(reason).inc()
