from __future__ import annotations

import subprocess
import sys

import pytest

GROWTH = """
import sys
import numpy as np
from server import process

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 1024

if "tune" in sys.argv:
    process.tune()
before = resident()
held = [np.ones(2**18) for _ in range(64)]  # 2 MiB each: once freed, such blocks go to the heap
del held
kept = []
for _ in range(64):
    block = np.ones(2**18)
    kept.append(np.ones(100))  # on top of the block, which then cannot be given back
    del block
held = [np.ones(2**18) for _ in range(64)]
kept.append(np.ones(100))
del held
print(resident() - before, sys.getswitchinterval())
"""


def test_what_is_imported_is_left_out_of_later_collections_which_go_on() -> None:
    begin = """
import gc
import sys
from server import process

was = len(sys.modules)
with process.importing():
    import decimal
    assert not gc.isenabled()
print(gc.isenabled(), gc.get_freeze_count() > 1000, len(sys.modules) > was)
"""
    command = [sys.executable, "-c", begin]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert output.split() == ["True", "True", "True"]


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc's heap that is looked at")
def test_what_batches_free_is_given_back() -> None:
    def grown(*arguments: str) -> tuple[float, float]:
        command = [sys.executable, "-c", GROWTH, *arguments]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        megabytes, interval = map(float, output.split())
        return megabytes, interval

    as_it_is, _ = grown()
    tuned, interval = grown("tune")
    assert tuned < 8 < as_it_is
    assert interval < 0.001
