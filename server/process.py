"""What this process asks of the interpreter and the C library before it serves."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# The engine's thread needs the interpreter between any two operators and must not wait the default
# 5 ms for it while the event loop is busy.
_SWITCH_INTERVAL_S = 5e-5
_BLOCK_BYTES = 2**20
_HEAPS = 2
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of glibc's <malloc.h>


@contextmanager
def importing() -> Iterator[None]:
    """Look for no garbage while the block imports, nor in what it has imported from then on.

    Modules live as long as the process. Looking through them again and again while more come took
    a fifth of a start.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def tune() -> None:
    """Let threads take turns sooner, and give memory back; call once, before threads start.

    Batches of ever other sizes would leave glibc's heap in pieces: blocks of a MiB or more are
    mapped one by one instead, so that freeing them frees memory, and threads share few heaps, so
    that what one has freed another uses. Other C libraries are left alone.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _HEAPS)
        for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            mallopt(parameter, _BLOCK_BYTES)
