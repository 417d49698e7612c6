"""The Diffusion Policy, whose training waits for the test in the middle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from small_trainable import hold

from trainables.diffusion_policy.trainable import DiffusionPolicyTrainable
from trainables.interface import Report, TrainContext

HOLD_STEP = 105


class HeldDiffusion(DiffusionPolicyTrainable):
    """Waits for `release` when the report of `HOLD_STEP` was given."""

    def train(self, config: Mapping[str, Any], context: TrainContext) -> Iterator[Report]:
        for report in super().train(config, context):
            yield report
            if report.step == HOLD_STEP:
                hold(context)


TRAINABLE = HeldDiffusion()
