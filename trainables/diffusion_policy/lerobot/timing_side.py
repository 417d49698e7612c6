"""LeRobot's half of a timing: a script for another Python, in which LeRobot is installed.

It imports nothing of this project. For every line on its input it predicts one chunk from the same
observation and noise, and answers with a line: the time in ms, and the actions.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from typing import Any

import numpy as np
import torch


def main(checkpoint: str, given: str, threads: str) -> None:
    """Load a checkpoint as LeRobot does and answer until the input ends."""
    # LeRobot prints; the answers must stay readable.
    answer, sys.stdout = sys.stdout, sys.stderr
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
    from lerobot.policies.factory import make_pre_post_processors

    torch.set_num_threads(int(threads))
    policy = DiffusionPolicy.from_pretrained(checkpoint)
    policy.eval()
    before, after = make_pre_post_processors(
        policy.config, checkpoint, preprocessor_overrides={"device_processor": {"device": "cpu"}}
    )
    arrays = dict(np.load(given, allow_pickle=False))
    noise = torch.from_numpy(arrays.pop("noise"))
    batch = {name: _value(array) for name, array in arrays.items()}

    @torch.no_grad()
    def chunk() -> torch.Tensor:
        normalized = dict(before(dict(batch)))
        if policy.config.image_features:
            images = [normalized[name] for name in policy.config.image_features]
            normalized["observation.images"] = torch.stack(images, dim=-4)
        torch.manual_seed(1)
        actions: torch.Tensor = after(policy.diffusion.generate_actions(normalized, noise=noise.clone()))
        return actions

    print(json.dumps({"version": importlib.metadata.version("lerobot")}), file=answer, flush=True)
    for _ in sys.stdin:
        start_s = time.perf_counter()
        actions = chunk()
        took_ms = 1e3 * (time.perf_counter() - start_s)
        print(json.dumps({"ms": took_ms, "actions": actions.tolist()}), file=answer, flush=True)


def _value(array: Any) -> torch.Tensor:
    """A value as LeRobot's dataset gives it: pictures are floats in [0, 1]."""
    value = torch.from_numpy(array)
    return value.float() / 255 if value.dtype == torch.uint8 else value


if __name__ == "__main__":
    main(*sys.argv[1:])
