"""Documents stored once: ids, texts and vectors, in memory and as one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.elasticize.static_patch import StaticPatch
from models.files import reading, replacing
from models.space import Subnet, Value
from search.anncur import Duel
from server.errors import InvalidRequestError, shown
from server.indexes.comparisons import Comparisons

_ABOUT = "index"  # of the file's metadata


class IndexFileError(ValueError):
    """A file holds no index. The message names it."""


@dataclass(frozen=True, slots=True)
class QueryQuality:
    """What queries by one subnet find of what those by the best one do, measured here.

    Attributes:
        subnet: Of the query.
        flops: Of a query of the mean length of those tried.
        overlap: Mean part of the best subnet's first ten that are among its own first ten.
        stderr: Standard error over the queries.
        n: Queries: sentences of the documents.
        is_fitted: Whether the subnet has no layers and its vectors of tokens are the index's own.
    """

    subnet: Mapping[str, Value]
    flops: int
    overlap: float
    stderr: float
    n: int
    is_fitted: bool = False


@dataclass(frozen=True, eq=False)
class Index:
    """Documents of one client, in the space of one model.

    Attributes:
        client: Whose it is.
        name: Among the client's.
        model: That made the vectors.
        space: Id of the space that they are of.
        subnet: That made them.
        created_s: Unix time.
        flops: That making them took.
        queries: Measured, cheapest first.
        ids: Of the documents, each once.
        texts: Likewise.
        vectors: Of length 1, shape [documents, dim].
        adapter: Of the model, that the vectors are of; empty for none.
        patch: Of the static exit, fitted to the documents, for queries; None if there is none.
        comparisons: Scores by a model that compares two texts; None if there are none.
    """

    client: str
    name: str
    model: str
    space: str
    subnet: Subnet
    created_s: int
    flops: int
    queries: Sequence[QueryQuality]
    ids: Sequence[str]
    texts: Sequence[str]
    vectors: Tensor
    adapter: str = ""
    patch: StaticPatch | None = None
    comparisons: Comparisons | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Of the documents, by id."""
        return {one: i for i, one in enumerate(self.ids)}

    @cached_property
    def num_bytes(self) -> int:
        """Held, about."""
        held = self.vectors.nbytes + (0 if self.patch is None else self.patch.num_bytes)
        held += 0 if self.comparisons is None else self.comparisons.known.nbytes
        return held + sum(len(one.encode()) for one in (*self.ids, *self.texts))

    def at(self, ids: Sequence[str]) -> list[int]:
        """Return positions; InvalidRequestError for an id that is unknown."""
        for i, one in enumerate(ids):
            if one not in self.positions:
                raise InvalidRequestError(
                    f"ids[{i}]={shown(one)} is not in index {shown(self.name)}", f"ids[{i}]"
                )
        return [self.positions[one] for one in ids]

    def quality_of(self, subnet: Mapping[str, Value]) -> QueryQuality | None:
        """Return what was measured of queries by a subnet; None if nothing was."""
        return next((one for one in self.queries if dict(one.subnet) == dict(subnet)), None)

    def save(self, path: Path) -> None:
        """Write the file, as a whole."""
        about = {
            name: getattr(self, name)
            for name in ("client", "name", "model", "space", "created_s", "flops", "adapter")
        }
        about |= {
            "subnet": dict(self.subnet),
            "queries": [{**asdict(one), "subnet": dict(one.subnet)} for one in self.queries],
        }
        tensors = {"vectors": self.vectors.contiguous()}
        if self.patch is not None:
            tensors |= {"patch.tokens": self.patch.tokens, "patch.table": self.patch.table}
            about["patch_factor"] = self.patch.factor
        if self.comparisons is not None:
            tensors["comparisons"] = self.comparisons.known.contiguous()
            about["pair_model"] = self.comparisons.model
            about["duels"] = [list(one) for one in self.comparisons.duels]
        for name, texts in (("ids", self.ids), ("texts", self.texts)):
            tensors[name], tensors[f"{name}.ends"] = _packed(texts)
        with replacing(path) as part:
            save_file(tensors, part, {_ABOUT: json.dumps(about)})

    @classmethod
    def load(cls, path: Path) -> Index:
        """Read a file; IndexFileError if it holds none."""
        with reading(path, IndexFileError), safe_open(path, "pt") as file:
            about: dict[str, Any] = json.loads(file.metadata()[_ABOUT])
            ids, texts = (
                _unpacked(file.get_tensor(name), file.get_tensor(f"{name}.ends"))
                for name in ("ids", "texts")
            )
            vectors = file.get_tensor("vectors")
            if not len(ids) == len(texts) == len(vectors):
                raise IndexFileError(f"{path}: ids, texts and vectors differ in number")
            queries = [QueryQuality(**one) for one in about.pop("queries")]
            subnet, patch = Subnet(about.pop("subnet")), None
            if (factor := about.pop("patch_factor", None)) is not None:
                tokens, table = (file.get_tensor(f"patch.{name}") for name in ("tokens", "table"))
                patch = StaticPatch(tokens, table, factor)
            comparisons = None
            if (model := about.pop("pair_model", None)) is not None:
                duels = [Duel(*one) for one in about.pop("duels")]
                comparisons = Comparisons(model, file.get_tensor("comparisons"), duels)
            own = {"ids": ids, "texts": texts, "vectors": vectors}
            own |= {"patch": patch, "comparisons": comparisons}
            return cls(**about, subnet=subnet, queries=queries, **own)


def _packed(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return texts one after the other as bytes, and where each ends."""
    parts = [one.encode() for one in texts]
    joined = np.frombuffer(b"".join(parts), dtype=np.uint8).copy()
    return torch.from_numpy(joined), torch.tensor(np.cumsum([len(one) for one in parts]))


def _unpacked(joined: Tensor, ends: Tensor) -> tuple[str, ...]:
    content, found, start = joined.numpy().tobytes(), [], 0
    for end in ends.tolist():
        found.append(content[start:end].decode())
        start = end
    return tuple(found)
