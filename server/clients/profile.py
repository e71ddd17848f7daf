"""What is stored of a client: what its requests inherit, and how much it may use."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from search.budget import Budget
from server.errors import InvalidRequestError, shown

CEILINGS = ("flops", "macs", "fraction", "latency_ms", "bytes")
LEASE_S = 0.1  # of a rate's tokens that a replica takes from the database at a time
# Quotas are counted in floats: with more than this, what one request takes is lost by rounding.
MOST_REQUESTS, MOST_FLOPS = 1e9, 1e21
LEAST_REQUESTS_PER_S = 1e-6  # one in eleven days; a wait is a number of seconds that clients read
_MOST_REFILL_S = 30 * 86_400.0  # of a burst


class QuotaName(StrEnum):
    """What is counted: the fields of `Quota` that are not bursts."""

    REQUESTS = "requests_per_s"
    FLOPS = "flops_per_s"
    DAILY_FLOPS = "flops_per_day"


@dataclass(frozen=True, slots=True)
class Quota:
    """How much a client may use; what is None is not limited.

    Attributes:
        requests_per_s: Requests, sustained.
        request_burst: Requests at once after a pause; None for one second's worth, at least 1.
        flops_per_s: FLOPs (2 x MACs), sustained.
        flops_burst: FLOPs at once after a pause; None for one second's worth.
        flops_per_day: FLOPs from midnight to midnight, UTC.
    """

    requests_per_s: float | None = None
    request_burst: float | None = None
    flops_per_s: float | None = None
    flops_burst: float | None = None
    flops_per_day: float | None = None


@dataclass(frozen=True, slots=True)
class ClientProfile:
    """A client as it is stored; `server.clients.inherit` says what its requests make of it.

    Attributes:
        preferences: Weight of each task, by model.
        budget: What requests get that do not say otherwise.
        maximum: Ceilings that no request may exceed.
        priority: Class of its requests; lower ones go first, always.
        weight: Its share of what its class gets.
        quota: How much it may use.
        models: Those it may use; None for all.
        adapters: Name of the adapter that requests get which name none, by model.
    """

    preferences: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    maximum: Budget = field(default_factory=Budget)
    priority: int = 0
    weight: float = 1.0
    quota: Quota = field(default_factory=Quota)
    models: tuple[str, ...] | None = None
    adapters: Mapping[str, str] = field(default_factory=dict)


def check_profile(
    profile: ClientProfile,
    tasks: Mapping[str, Collection[str]],
    adapters: Mapping[str, Collection[str]],
) -> None:
    """Refuse a profile that contradicts itself or names what is not served.

    Args:
        profile: To be stored.
        tasks: Of each model served.
        adapters: Likewise.

    Raises:
        InvalidRequestError: Naming the field, its value and what is allowed.
    """
    models = profile.models or ()
    for model in models:
        _check_known("models", model, "model", tasks)
        if models.count(model) > 1:
            raise InvalidRequestError(f"models names {shown(model)} more than once", "models")
    for model, adapter in profile.adapters.items():
        _check_model(f"adapters.{model}", model, models, tasks)
        _check_known(f"adapters.{model}", adapter, "adapter", adapters[model])
    for model, weights in profile.preferences.items():
        _check_model(f"preferences.{model}", model, models, tasks)
        for task in weights:
            _check_known(f"preferences.{model}.{task}", task, "task", tasks[model])
        if not any(weights.values()):
            name = f"preferences.{model}"
            raise InvalidRequestError(f"{name} must give a task a weight above 0", name)
    check_ceilings(profile.budget, profile.maximum)
    _check_burst(profile.quota, "request_burst", "requests_per_s", 1.0)
    _check_burst(profile.quota, "flops_burst", "flops_per_s", 0.0)


def check_ceilings(budget: Budget, maximum: Budget) -> None:
    """Refuse a budget that asks for more than a client's maximum.

    FLOPs and MACs are one resource in two units and are compared with each other.

    Raises:
        InvalidRequestError: Naming the field, its value and the maximum.
    """
    for name in CEILINGS:
        value, most = getattr(budget, name), _most(maximum, name)
        if value is not None and most is not None and value > most:
            raise InvalidRequestError(
                f"budget.{name}={value:.12g} is above the client's maximum, {most:.12g}",
                f"budget.{name}",
            )


def _most(maximum: Budget, name: str) -> float | None:
    match name:
        case "flops":
            in_macs = None if maximum.macs is None else 2 * maximum.macs
            return min((x for x in (maximum.flops, in_macs) if x is not None), default=None)
        case "macs":
            in_flops = _most(maximum, "flops")
            return None if in_flops is None else in_flops / 2
    most: float | None = getattr(maximum, name)
    return most


def _check_known(field_name: str, value: str, kind: str, known: Collection[str]) -> None:
    if value not in known:
        raise InvalidRequestError(
            f"{field_name}: {kind} {shown(value)} is not known; one of {list(known)}",
            field_name[:80],
        )


def _check_model(
    field_name: str, model: str, models: Collection[str], known: Collection[str]
) -> None:
    _check_known(field_name, model, "model", known)
    if models and model not in models:
        raise InvalidRequestError(
            f"{field_name}: the client may not use this model; models={list(models)}",
            field_name[:80],
        )


def _check_burst(quota: Quota, name: str, rate_name: str, least: float) -> None:
    burst, rate = getattr(quota, name), getattr(quota, rate_name)
    if burst is None:
        return
    field_name = f"quota.{name}"
    if rate is None:
        raise InvalidRequestError(
            f"{field_name}={burst:g} needs quota.{rate_name}, which refills it", field_name
        )
    # Replicas take tokens by slices of this length; a smaller bucket would hold them up.
    if burst < max(least, LEASE_S * rate):
        raise InvalidRequestError(
            f"{field_name}={burst:g} must be at least {max(least, LEASE_S * rate):g}: "
            f"{LEASE_S:g} s of quota.{rate_name}" + (" and 1" if least else ""),
            field_name,
        )
    if burst > (most := max(least, _MOST_REFILL_S * rate)):
        raise InvalidRequestError(
            f"{field_name}={burst:g} must be at most {most:g}: 30 days of quota.{rate_name}",
            field_name,
        )
