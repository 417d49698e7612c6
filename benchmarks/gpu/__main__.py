"""Measure on a GPU in one call: ``python -m benchmarks.gpu --json FILE``; docs/performance.md explains it."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.gpu.cases import Row, Setting
from benchmarks.gpu.hardware import describe_hardware
from benchmarks.gpu.parts import PARTS, run_parts
from benchmarks.gpu.report import as_json, as_markdown

MINUTES = 8.5


def main() -> int:
    """Run the parts, print a page, and write JSON after each part.

    Returns:
        1 if a case failed or exceeded its tolerance, else 0.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    parser.add_argument("--device", default="cuda:0", help="cuda:0, or cpu to try the kit (cuda:0)")
    parser.add_argument("--quick", action="store_true", help="tiny networks, few repetitions")
    parser.add_argument("--part", action="append", choices=list(PARTS), help="only this; can be repeated")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help=f"for all parts together ({MINUTES:g})"
    )
    parser.add_argument("--threads", type=int, default=0, help="threads of torch on the CPU (its own choice)")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no GPU that PyTorch can use; --device cpu --quick tries the kit without one")
    start_s = time.monotonic()
    hardware = describe_hardware(options.device)
    found: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory(prefix="gpu-kit-") as folder:
        setting = Setting(options.device, options.quick, Path(folder))
        parts = run_parts(options.part or list(PARTS), setting, 60 * options.minutes, options.threads)
        for name, rows in parts:
            found[PARTS[name].title] = rows
            if options.json is not None:
                # After each part: a run that is cut off leaves what it knew.
                options.json.write_text(json.dumps(as_json(hardware, found), indent=1) + "\n")
    print(f"\n{as_markdown(hardware, found)}\n{time.monotonic() - start_s:.0f} s")
    return int(any(row.status in ("differs", "failed") for rows in found.values() for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
