"""Contents of tensors as short keys."""

from __future__ import annotations

from hashlib import blake2b

from torch import Tensor


def digest_of(value: Tensor) -> bytes:
    """Return 128 bits that are equal for tensors of equal type, shape and values."""
    array = value.contiguous().numpy()
    digest = blake2b(array.reshape(-1).view("uint8").data, digest_size=16)
    digest.update(f"{array.dtype}{array.shape}".encode())
    return digest.digest()
