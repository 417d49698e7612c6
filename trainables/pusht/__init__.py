"""Push-T, the built-in task: simulator, an expert that solves it, and its demonstrations."""

from trainables.pusht.demonstrations import ensure_dataset
from trainables.pusht.task import IMAGE

__all__ = ["IMAGE", "ensure_dataset"]
