from __future__ import annotations

import resource
import subprocess
import sys

import pytest

FAULTS = """
import resource, numpy as np
from trainables.diffusion_policy.training.malloc import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        kept = [np.ones(200_000, np.float32) for _ in range(4)]
        del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
print(keep_freed_memory())
faults()
print(faults())
"""


@pytest.mark.slow
def test_freed_memory_is_used_again_without_page_faults() -> None:
    result = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    before, effective, after = result.stdout.split()
    if effective == "False":
        pytest.skip("the C library is not glibc")
    pages = 200_000 * 4 // resource.getpagesize()
    assert int(after) < pages < int(before)
