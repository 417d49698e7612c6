"""LeRobot datasets: read, checked, decoded once, cut into windows, and written.

``open_dataset`` reads one, or several as one; ``lerobot.preflight`` says what is wrong with it,
``frames.open_frames`` decodes its cameras, ``windows.Windows`` cuts it into training samples,
``write.DatasetWriter`` makes one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainables.dataset.errors import DatasetError
    from trainables.dataset.lerobot import open_dataset
    from trainables.dataset.opened import LeRobotDataset

__all__ = ["DatasetError", "LeRobotDataset", "open_dataset"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: whoever wants the errors or the schema alone loads neither pyarrow nor av.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trainables.dataset import lerobot

    return getattr(lerobot, name)
