"""Subnets as genes: positions on the axes of a model, for searches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from models.families.convnet import Convnet
from models.space import Space, Subnet, Value
from search.offline.linas import Genes, GeneSpace


def genes_of(space: Space, subnet: Mapping[str, Value]) -> Genes:
    """Return a subnet's position on each axis; ValueError if it has no value there."""
    return tuple(axis.index(subnet[axis.name]) for axis in space.axes)


def subnet_of(space: Space, genes: Genes) -> Subnet:
    """Return the subnet at some positions."""
    return Subnet((axis.name, axis.values[i]) for axis, i in zip(space.axes, genes, strict=True))


def used_by(model: Any, subnet: Subnet) -> list[bool]:
    """Return of each axis whether it makes a difference to a subnet."""
    if not isinstance(model, Convnet):
        return [True] * len(subnet)
    used = model.used(subnet)
    return [axis in used for axis in subnet]


def gene_space(model: Any) -> GeneSpace:
    """Return what can be chosen about a model; a convolutional one needs no statistics for it."""
    space: Space = model.choices if isinstance(model, Convnet) else model.space

    def canonical(genes: Genes) -> Genes:
        if not isinstance(model, Convnet):
            return genes
        return genes_of(space, model.canonical(subnet_of(space, genes)))

    return GeneSpace(
        tuple(len(axis.values) for axis in space.axes),
        canonical if space.is_product else _nearest([genes_of(space, one) for one in space]),
        lambda genes: used_by(model, subnet_of(space, genes)),
    )


def _nearest(every: list[Genes]) -> Callable[[Genes], Genes]:
    """Return what maps genes that do not go together to the nearest that do."""
    known, positions = set(every), np.array(every)

    def nearest(genes: Genes) -> Genes:
        if genes in known:
            return genes
        return every[int(np.abs(positions - np.array(genes)).sum(axis=1).argmin())]

    return nearest


def needs_statistics(model: Any) -> bool:
    """Return whether a model has subnets whose statistics must be estimated."""
    if not isinstance(model, Convnet) or model.config.private_affine:
        return False
    return prod(map(len, model.config.axes.values())) > len(model.config.subnets)
