"""The benchmark of stacked policies trains the same policies in every way."""

from __future__ import annotations

import pytest
import torch

from benchmarks import stacked

pytestmark = pytest.mark.slow

NETWORK = ((16, 32), 16)


def test_policies_that_are_trained_as_one_have_the_losses_of_separate_ones() -> None:
    batch, target = stacked._batch(3, 4)
    separate = stacked.separate(stacked._unets(3, NETWORK), batch, target)
    ways = [made(stacked._unets(3, NETWORK), batch, target) for made in (stacked.grouped, stacked.mapped)]
    for _ in range(3):
        expected = torch.stack([way.step() for way in separate])
        for way in ways:
            torch.testing.assert_close(way.step(), expected, rtol=1e-3, atol=1e-4)


def test_a_way_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(stacked.measure(NETWORK, 2, 4, rounds=1)) == {"separate", "grouped", "vmap"}
    monkeypatch.setattr(
        stacked.Grouped, "_block", lambda self, block, x_BCL, cond: block.conv2(block.conv1(x_BCL))
    )
    with pytest.raises(RuntimeError, match="grouped: the losses differ"):
        stacked.measure(NETWORK, 2, 4, rounds=1)
