from __future__ import annotations

import resource
import subprocess
import sys

import pytest
import torch

from trainables.diffusion_policy.config.sections import TrainConfig
from trainables.diffusion_policy.training.process import arithmetic

FAULTS = """
import resource, numpy as np
from trainables.diffusion_policy.training.process import keep_freed_memory

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


def test_arithmetic_is_as_configured_and_restored_after_the_training() -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn

    def state() -> tuple[bool, bool, bool]:
        return matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark

    before = state()
    for tf32 in (True, False):
        with arithmetic(TrainConfig(tf32=tf32, cudnn_benchmark=True), torch.device("cpu")):
            assert state() == (tf32, tf32, True)
        assert state() == before
    with arithmetic(TrainConfig(), torch.device("cpu")):
        assert state() == before


def test_denormal_numbers_become_zero_if_wanted() -> None:
    small = torch.full((1,), 1e-30)
    found = {}
    for flushes in (True, False):
        with arithmetic(TrainConfig(flush_denormals=flushes), torch.device("cpu")):
            found[flushes] = float(small * 1e-10)
    assert found[True] == 0.0 < found[False]
    assert float(small * 1e-10) > 0.0
