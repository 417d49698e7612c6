"""The gradient of a 3×3 kernel on small maps: oneDNN's convolution beside one matrix product.

``python -m benchmarks.convolutions [--json FILE]``; a minute on one core. It times the convolutions of a
ResNet's last stage, which `trainables.diffusion_policy.network.vision` treats in its own way on small maps.
Times are CPU time of one thread, the smallest of some rounds in which the two alternate.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import machine
from trainables.diffusion_policy.network.vision import SmallMapConvolution

CHANNELS = 512
MAPS = (1, 2, 3, 4, 5, 7)
IMAGES = (8, 64, 128)
ROUNDS = 5


def measure(images: int, cells: int) -> dict[str, float]:
    """Milliseconds of the gradient of a kernel, both ways, on square maps of so many cells a side."""
    images_NCHW = torch.randn(images, CHANNELS, cells, cells)
    weight = torch.randn(CHANNELS, CHANNELS, 3, 3, requires_grad=True)
    as_product: Any = SmallMapConvolution
    ways: dict[str, Callable[[], Tensor]] = {
        "oneDNN": lambda: F.conv2d(images_NCHW, weight, padding=1),
        "product": lambda: as_product.apply(images_NCHW, weight, (1, 1)),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):
        for name, convolve in ways.items():
            times[name].append(_gradient_ms(convolve(), weight))
    return {name: min(found[1:]) for name, found in times.items()}


def _gradient_ms(convolved: Tensor, weight: Tensor) -> float:
    upstream = torch.ones_like(convolved)
    start_s = time.process_time()
    torch.autograd.grad(convolved, weight, upstream)
    return (time.process_time() - start_s) * 1e3


def main() -> None:
    """Measure every size, and show the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.convolutions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, help="write the measurements here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    capability = torch.backends.cpu.get_cpu_capability()
    described = machine.describe() | {"instructions": capability}
    console = Console(width=120)
    console.print(", ".join(f"{name} {value}" for name, value in described.items()))
    table = Table("images", "map", "oneDNN, ms", "product, ms", "oneDNN / product")
    rows = []
    for images in IMAGES:
        for cells in MAPS:
            found = measure(images, cells)
            rows.append({"images": images, "cells": cells, **found})
            ratio = found["oneDNN"] / found["product"]
            values = f"{found['oneDNN']:.1f}", f"{found['product']:.1f}", f"{ratio:.2f}"
            table.add_row(str(images), f"{cells}×{cells}", *values)
    console.print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": described, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
