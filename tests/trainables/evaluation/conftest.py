"""Tests of evaluations may use the small policies."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "diffusion_policy"))  # small_policy
