"""What goes wrong with a dataset, as one kind of error. Standard library only."""

from __future__ import annotations

from trainables.interface import Fault, TrainableError

__all__ = ["DatasetError", "DiskFullError", "dataset_error"]


class DatasetError(TrainableError):
    """A dataset cannot be read, or is not what training needs."""

    reason = "data"


class DiskFullError(DatasetError):
    """There is not enough room for the decoded frames."""

    reason = "disk"


def dataset_error(where: str, problem: str, remedy: str = "") -> DatasetError:
    """Make an error of the same three parts as a fault: where, what is wrong, what to do."""
    return DatasetError(str(Fault(where, problem, remedy)))
