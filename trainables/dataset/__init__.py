"""LeRobot datasets: read, checked, decoded once, cut into windows, and written.

- ``open``: `open_dataset` opens one dataset, or several as one
- ``lerobot_dataset``: `LeRobotDataset`; ``opened_folder``: one folder of it
- ``frames``: decodes each camera once into a memory map
- ``windows``: training samples
- ``policy_statistics``: what a policy is normalised with; ``statistics``: numbers from arrays
- ``portrait``, ``drawing``: describe and draw a dataset
- ``shared_cache``: what the processes of a machine make once
- ``doctor/``: what is wrong with a dataset; ``doctor.preflight`` is the quick check
- ``repair/``: writes a repaired copy
- ``sources/``: where a dataset comes from; ``format/``: LeRobot's files
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainables.dataset.errors import DatasetError
    from trainables.dataset.lerobot_dataset import LeRobotDataset
    from trainables.dataset.open import open_dataset

__all__ = ["DatasetError", "LeRobotDataset", "open_dataset"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: an import of a submodule loads neither pyarrow nor av.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trainables.dataset import open as opening

    return getattr(opening, name)
