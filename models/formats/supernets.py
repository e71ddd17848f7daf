"""Readers of convolutional supernets by the name of their format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from models.families.convnet import Convnet
from models.formats import once_for_all, once_for_all_resnet, slimmable_networks
from models.formats.folder import FormatError

_ARCHITECTURES: Mapping[str, tuple[slimmable_networks.Architecture, ...]] = {
    "slimmable": ("mobilenet-v1", "mobilenet-v2", "resnet-50"),
    "universally-slimmable": ("mobilenet-v1", "mobilenet-v2"),
}
_OF_WIDTHS: Mapping[str, Any] = {
    f"{kind}-{architecture}": partial(
        slimmable_networks.read, architecture=architecture, universal=kind != "slimmable"
    )
    for kind, architectures in _ARCHITECTURES.items()
    for architecture in architectures
}
_OTHERS: Mapping[str, Any] = {
    "once-for-all-mobilenet-v3": once_for_all.read,
    "once-for-all-resnet-50": once_for_all_resnet.read,
}
FORMATS = (*_OTHERS, *_OF_WIDTHS)


def read(path: Path, name: str, format_: str, widths: Sequence[float] | None = None) -> Convnet:
    """Read a file of a named format.

    Args:
        path: Of the file.
        name: What clients call the model.
        format_: One of `FORMATS`.
        widths: Of a slimmable network, in the order of the file; of no other.

    Raises:
        FormatError: If the file cannot be read, there is no such format, or the widths do not go
            with it.
    """
    if format_ not in FORMATS:
        raise FormatError(f"format={format_!r}; allowed: one of {list(FORMATS)}")
    if (format_ in _OF_WIDTHS) != (widths is not None):
        raise FormatError(f"format={format_!r}, widths={widths}; widths go with slimmable formats")
    found: Convnet
    if widths is not None:
        found = _OF_WIDTHS[format_](path, name, widths=tuple(widths))
    else:
        found = _OTHERS[format_](path, name)
    return found
