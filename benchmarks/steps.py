"""How long an optimiser step takes, by the size of the network and the precision."""

from __future__ import annotations

import time

import numpy as np
import torch

from trainables.diffusion_policy.config.sections import PolicyConfig
from trainables.diffusion_policy.network.policy import DiffusionPolicy, build_policy
from trainables.features import ACTION, STATE, Feature, FeatureType, PolicyFeatures

CAMERA = "observation.image"
STEPS, WARMUP = 20, 3
CASES = {
    "state, down_dims [32, 64], batch 128": (PolicyConfig(down_dims=(32, 64)), False, 128),
    "state, down_dims [128, 256, 512], batch 64": (PolicyConfig(down_dims=(128, 256, 512)), False, 64),
}
GPU_CASES = {
    "state, LeRobot's size, batch 64": (PolicyConfig(), False, 64),
    "one camera, LeRobot's size, batch 64": (PolicyConfig(crop_shape=(84, 84)), True, 64),
}


def run() -> dict[str, float]:
    """Measure milliseconds per step: forward, backward, AdamW."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    cases = CASES | (GPU_CASES if on_gpu else {})
    return {
        f"{name}, {precision}, ms": _measure(*case, precision=precision, device=device)
        for name, case in cases.items()
        for precision in ("fp32", "bf16")
    }


def _measure(
    config: PolicyConfig, camera: bool, batch_size: int, *, precision: str, device: torch.device
) -> float:
    torch.manual_seed(0)
    policy = _policy(config, camera).to(device)
    optimizer = torch.optim.AdamW(policy.parameters(), fused=True)
    batch = _batch(config, camera, batch_size, device)
    generator = torch.Generator(device=device).manual_seed(0)
    times = []
    for _ in range(WARMUP + STEPS):
        start_s = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = policy.loss(batch, generator=generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        float(loss.detach())  # waits for the device
        times.append(time.perf_counter() - start_s)
    return float(np.median(times[WARMUP:]) * 1e3)


def _policy(config: PolicyConfig, camera: bool) -> DiffusionPolicy:
    inputs = [Feature(STATE, FeatureType.STATE, (2,))]
    if camera:
        inputs.insert(0, Feature(CAMERA, FeatureType.VISUAL, (3, 96, 96)))
    features = PolicyFeatures(tuple(inputs), Feature(ACTION, FeatureType.ACTION, (2,)))
    vector = {"min": np.zeros(2), "max": np.ones(2), "mean": np.zeros(2), "std": np.ones(2)}
    picture = {"mean": np.full((3, 1, 1), 0.5), "std": np.full((3, 1, 1), 0.25)}
    return build_policy(config, features, {STATE: vector, ACTION: vector, CAMERA: picture})


def _batch(
    config: PolicyConfig, camera: bool, batch_size: int, device: torch.device
) -> dict[str, torch.Tensor]:
    observed = (batch_size, config.n_obs_steps)
    batch = {
        STATE: torch.rand(*observed, 2, device=device),
        ACTION: torch.rand(batch_size, config.horizon, 2, device=device),
        "action_is_pad": torch.zeros(batch_size, config.horizon, dtype=torch.bool, device=device),
    }
    if camera:
        batch[CAMERA] = torch.randint(256, (*observed, 3, 96, 96), dtype=torch.uint8, device=device)
    return batch
