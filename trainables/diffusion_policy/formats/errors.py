"""What can go wrong in an export to a format of other runtimes."""

from __future__ import annotations

import importlib.util

from trainables.interface import TrainableError

__all__ = ["FormatError", "first_line", "need_onnx"]

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class FormatError(TrainableError):
    """A policy cannot be exported to a format, or the export differs from the policy."""

    reason = "config"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def need_onnx() -> None:
    """Check that the packages for ONNX are installed.

    Raises:
        FormatError: If one is missing.
    """
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise FormatError(
            f"--format onnx: {', '.join(missing)} {verb} not installed. "
            'Run: pip install "diffusion-policy-sweeper[onnx]"'
        )
