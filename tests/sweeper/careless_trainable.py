"""A trainable that changes whatever it can in its process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from small_trainable import Parabola, hold

from trainables.interface import Report, TrainContext

PID, DRAWN, LOSS = "process/pid", "process/drawn", "train/loss"


class Careless(Parabola):
    """Steps of a small network; ``mess`` leaves the process in disorder."""

    name = "careless"

    def train(self, config: Mapping[str, Any], context: TrainContext) -> Iterator[Report]:
        import torch

        print(f"trial prints in {Path.cwd()}, CARELESS={os.environ.get('CARELESS')}")
        drawn = torch.rand(1).item()
        torch.manual_seed(7)
        layer = torch.nn.Linear(8, 8)
        optimiser = torch.optim.AdamW(layer.parameters(), config["lr"])
        if context.world_size > 1:
            layer = torch.nn.parallel.DistributedDataParallel(layer)
        distributed = torch.distributed
        group = distributed.get_world_size() if distributed.is_initialized() else 0
        steps = config.get("train.steps", 5)
        for step in range(1, steps + 1):
            context.stop_requested()
            if step == config.get("hold_step", 0):
                hold(context)
            loss = layer(torch.randn(4, 8)).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            metrics = {
                PID: float(os.getpid()),
                DRAWN: drawn,
                LOSS: loss.item(),
                "process/threads": float(torch.get_num_threads()),
                "process/group": float(group),
            }
            time.sleep(config.get("pause_s", 0.0))
            yield Report(step, metrics, final=step == steps)
        if config.get("mess"):
            _make_a_mess(torch, context.cache)
        if config.get("fault") == "raise":
            raise ValueError("careless")
        if config.get("fault") == "child":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "left-behind"])
        if config.get("fault") == "thread":
            threading.Thread(target=time.sleep, args=(600,), daemon=True, name="forgotten").start()


def _make_a_mess(torch: Any, cache: Path) -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.benchmark = True
    os.environ["CARELESS"] = "yes"
    os.environ.pop("OMP_NUM_THREADS", None)
    cache.mkdir(parents=True, exist_ok=True)
    os.chdir(cache)
    sys.path.insert(0, "/nowhere")
    warnings.simplefilter("error")


TRAINABLE = Careless()
