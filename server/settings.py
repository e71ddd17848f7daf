"""The server's settings, and the only file that reads the environment."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

import models

PREFIX = "RHEOSTAT_"
DATA = "RHEOSTAT_DATA"  # belongs to training and benchmarks
MIB = 2**20
_SHIPPED = ("minilm-2d", "cifar100-mtl")  # for requests that name no model


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")


class SettingsError(ValueError):
    """A setting cannot be met on this machine. The message names it."""


class Settings(BaseSettings):
    """What can be set, from the command line, else the environment, else the default.

    Raises:
        ValidationError: If a value is out of range, or the environment holds a variable with our
            prefix that is no setting: a misspelt one would otherwise be ignored in silence.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    models: Path | None = Field(
        default=None,
        description="Folder of checkpoint folders, or one checkpoint. Default: those shipped.",
    )
    default_models: str | None = Field(
        default=None,
        description="Names, separated by commas: a request that names no model, where several "
        "would do, means the first of these that takes its inputs. Default: of those shipped, "
        "the general ones.",
    )
    aliases: str | None = Field(
        default=None,
        description="Further names of models: NAME=MODEL, separated by commas.",
    )
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen on, also for gRPC: `::` is every one of this machine, IPv4 "
        "included, `0.0.0.0` every one of IPv4.",
    )
    port: int = Field(default=8000, ge=1, le=65535, description="Port to listen on.")
    grpc_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Port for gRPC, on the same address. Default: no gRPC.",
    )
    device: str = Field(
        default="cpu",
        pattern=r"^(cpu|cuda(:\d+)?)$",
        description="Where models run: cpu, cuda or cuda:1.",
    )
    backend: Literal["auto", "torch", "onnx"] = Field(
        default="auto",
        description="What computes: torch; onnx (ONNX Runtime, for what it was measured to be "
        "faster at); or auto, which is onnx on a CPU where it is installed.",
    )
    max_session_bytes: int = Field(
        default=512 * MIB,
        gt=0,
        description="What ONNX Runtime's sessions may hold beside the models' own weights.",
    )
    max_variant_bytes: int = Field(
        default=512 * MIB,
        ge=0,
        description="What the weights may hold that models with load axes build when requests need "
        "them, beside those they were loaded with.",
    )
    http_workers: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="Processes that read and answer HTTP on the one port, beside the one that runs "
        "the models and is started again if it dies. 0: one process does everything. Default: 1 "
        "for models on a CPU with two cores or more, else 0.",
    )
    num_threads: int | None = Field(
        default=None, gt=0, description="CPU threads of one forward pass. Default: torch decides."
    )
    max_body_bytes: int = Field(
        default=20 * MIB, gt=0, description="Larger request bodies get 413."
    )
    max_head_bytes: int = Field(
        default=32 * 1024,
        ge=1024,
        description="Longer heads of requests get 431; so does what a chunked body has beside its "
        "content beyond that and the content's length.",
    )
    max_head_fields: int = Field(
        default=100, ge=1, description="More header fields get 431, and more trailer fields."
    )
    max_images: int = Field(default=64, gt=0, description="More images in one request are refused.")
    max_pixels: int = Field(
        default=100_000_000,
        gt=0,
        description="Images of one request that have more pixels together are refused; one alone "
        "may have 40 million.",
    )
    max_texts: int = Field(default=2048, gt=0, description="More texts in one request are refused.")
    max_text_chars: int = Field(
        default=2**17,
        gt=0,
        description="Characters that are tokenised of a text, at most, to see which tokens it has "
        "or is cut to; where they do not settle it the text is refused. Also of all texts of a "
        "request to /tokenize, and of all ids of one to /decode.",
    )
    max_batch_size: int = Field(default=32, gt=0, description="Most inputs run together.")
    max_batch_tokens: int = Field(
        default=4096, gt=0, description="Most tokens of text run together."
    )
    max_queue: int = Field(
        default=4096,
        gt=0,
        description="Inputs admitted and not yet answered; beyond this requests get 429.",
    )
    policy: Literal["price", "slackfit", "fixed"] = Field(
        default="price",
        description="What waiting does to subnets: price (compute costs quality as the queue "
        "grows), slackfit (the largest that fits the slack) or fixed (nothing).",
    )
    slim_all: bool = Field(
        default=False,
        description="Whether load may also slim requests that name no budget. Default: these get "
        "the whole model, later or not at all.",
    )
    target_delay_ms: float = Field(
        default=50.0,
        gt=0,
        allow_inf_nan=False,
        description="Queueing delay at which subnets are slimmed as far as requests allow.",
    )
    max_wait_ms: float = Field(
        default=2000.0,
        gt=0,
        allow_inf_nan=False,
        description="While those inside are predicted to take longer, requests get 429.",
    )
    max_cache_bytes: int = Field(
        default=0,
        ge=0,
        description="What answers kept for equal inputs may hold; 0 keeps none.",
    )
    max_label_bytes: int = Field(
        default=32 * MIB,
        ge=0,
        description="What kept vectors of labels of /v1/classify may hold.",
    )
    quality_confidence: float = Field(
        default=0.9,
        ge=0.5,
        lt=1,
        allow_inf_nan=False,
        description="How sure it must be that min_quality is kept, by the table's errors: 0.5 goes "
        "by what is expected.",
    )
    audit_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Share of answered requests of cut subnets that are run again at full size "
        "when nobody waits, and compared: 0.01 is enough. Default: none.",
    )
    max_audit_bytes: int = Field(
        default=16 * MIB,
        gt=0,
        description="What requests may hold that wait to be compared; more are dropped.",
    )
    audited_quality: bool = Field(
        default=False,
        description="Whether min_quality goes by what audits saw, at the lower bound, where that "
        "is less than the table promises. Needs audit_share.",
    )
    indexes: Path | None = Field(
        default=None,
        description="Folder of the documents that clients keep here. Default: in memory only.",
    )
    max_index_documents: int = Field(
        default=20_000, gt=0, description="Most documents of one index."
    )
    max_index_bytes: int = Field(
        default=256 * MIB, gt=0, description="What all indexes may hold, texts and vectors."
    )
    profiles: Path | None = Field(
        default=None,
        description="Folder of measured times and exported graphs. Default: rheostat/profiles in "
        "the user's cache.",
    )
    database: str | None = Field(
        default=None,
        description="Clients, keys and quotas: sqlite:///FILE, or for several replicas "
        "postgresql://USER:PASSWORD@HOST/NAME. Default: rheostat/clients.db in the user's data.",
    )
    database_grace_s: float = Field(
        default=300.0,
        ge=0,
        allow_inf_nan=False,
        description="Known keys are good for so long while the database is away.",
    )
    max_clients: int = Field(
        default=1000, gt=0, description="Clients that can be stored; replicas hold all of them."
    )
    open: bool = Field(
        default=False,
        description="Whether to infer and to read metrics takes no key, on any address.",
    )
    cors_origins: str | None = Field(
        default=None,
        description="Origins, separated by commas, whose pages may ask from a browser, such as "
        "https://example.org; * for any. Default: none.",
    )
    root_path: str = Field(
        default="",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="Path of a proxy below which the server stands, such as /models, whether the "
        "proxy takes it off or not.",
    )
    read_timeout_s: float = Field(
        default=30.0,
        gt=0,
        allow_inf_nan=False,
        description="Time that a client has to send the head of a request, and again for its body; "
        "slower ones get 408.",
    )
    keep_alive_s: int = Field(
        default=75,
        ge=1,
        description="Idle connections are kept for so long; set it above your load balancer's.",
    )
    drain_s: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Told to end, the server is not ready but takes requests for so long.",
    )
    grace_s: float = Field(
        default=30.0,
        gt=0,
        allow_inf_nan=False,
        description="Time that requests under way then have to end.",
    )
    traces: str | None = Field(
        default=None,
        pattern=r"^https?://[^/@\s]+/\S+$",
        description="OTLP over HTTP: the whole URL that traces go to, such as "
        "http://localhost:4318/v1/traces. Default: no traces.",
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="A line per message: for people, or a JSON object."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe messages that are logged."
    )

    @classmethod
    def of(cls, **given: Any) -> Self:
        """Return the settings; those that are not given come from the environment.

        Raises:
            SettingsError: Naming every fault, on one line.
        """
        try:
            return cls(**given)
        except ValidationError as error:
            faults = (
                f"{fault['loc'][0]}={fault['input']}: {fault['msg']}"
                if fault["loc"]
                else fault["msg"]
                for fault in error.errors(include_url=False)
            )
            raise SettingsError("; ".join(faults)) from None

    @property
    def num_http_workers(self) -> int:
        """Processes that answer HTTP beside the one that runs the models; 0 if that answers."""
        if self.http_workers is not None:
            return self.http_workers
        return int(self.device == "cpu" and _usable_cores() > 1)

    @property
    def url_host(self) -> str:
        """The host as addresses with a port spell it."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def models_folder(self) -> Path:
        """Where the checkpoints are."""
        return self.models or Path(models.__file__).parent / "zoo"

    @property
    def defaults(self) -> tuple[str, ...]:
        """Which models requests mean that name none."""
        if self.default_models is None:
            return _SHIPPED if self.models is None else ()
        return _listed(self.default_models)

    @property
    def names(self) -> dict[str, str]:
        """What each alias means.

        Raises:
            ValueError: If the setting is none of aliases.
        """
        found: dict[str, str] = {}
        for pair in _listed(self.aliases):
            alias, is_pair, model = (part.strip() for part in pair.partition("="))
            if not (alias and is_pair and model) or alias.strip("/") != alias:
                raise ValueError(f"aliases={self.aliases}: {pair!r} must be NAME=MODEL")
            if alias in found:
                raise ValueError(f"aliases={self.aliases}: {alias!r} is there twice")
            found[alias] = model
        return found

    @property
    def origins(self) -> tuple[str, ...]:
        """Whose pages may ask.

        Raises:
            ValueError: If one is no origin.
        """
        found = tuple(one.lower() for one in _listed(self.cors_origins))
        for one in found:
            if one != "*" and not _ORIGIN.fullmatch(one):
                raise ValueError(f"cors_origins: {one!r} must be SCHEME://HOST, or *")
        return found

    @property
    def profiles_folder(self) -> Path:
        """Where measured times are kept."""
        return self.profiles or _cache() / "rheostat" / "profiles"

    @property
    def database_url(self) -> str:
        """Where clients are kept."""
        if self.database is not None:
            return self.database
        return f"sqlite:///{_user_data() / 'rheostat' / 'clients.db'}"

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("max_images", "max_texts"):
            if (most := getattr(self, name)) > self.max_queue:
                raise ValueError(
                    f"{name}={most} exceeds max_queue={self.max_queue}: a request that large could "
                    "never be admitted"
                )
        if self.audited_quality and not self.audit_share:
            raise ValueError("audited_quality=True needs an audit_share above 0")
        known = {PREFIX + name.upper() for name in type(self).model_fields} | {DATA}
        _ = self.names, self.origins  # raise what is wrong with them
        if self.grpc_port == self.port:
            raise ValueError(f"grpc_port={self.grpc_port} is port as well; gRPC needs its own")
        found = {name.upper() for name in os.environ}
        for name in sorted(found - known):
            if name.startswith(PREFIX):
                # With the prefix, which all share, anything would be near.
                words = [one.removeprefix(PREFIX) for one in sorted(known)]
                near = difflib.get_close_matches(name.removeprefix(PREFIX), words, n=1) or words
                raise ValueError(
                    f"{name} is no setting; did you mean {PREFIX}{f' or {PREFIX}'.join(near)}?"
                )
        return self


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _cache() -> Path:
    given = os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else Path.home() / ".cache"


def _user_data() -> Path:
    given = os.environ.get("XDG_DATA_HOME")
    return Path(given) if given else Path.home() / ".local" / "share"


def data_folder() -> Path:
    """Return the folder of training data sets, named by ``RHEOSTAT_DATA``.

    Raises:
        ValueError: If the variable is not set.
    """
    folder = os.environ.get(DATA)
    if not folder:
        raise ValueError(f"{DATA} must name the folder that holds the data sets")
    return Path(folder)


def _usable_cores() -> int:
    """Return how many cores this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # of Linux
    return len(affinity(0)) if affinity else os.cpu_count() or 1
