"""What goes wrong with a dataset, as one kind of error. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trainables.interface import Fault, TrainableError

__all__ = ["DatasetError", "DiskFullError", "dataset_error"]


class DatasetError(TrainableError):
    """A dataset cannot be read, or is not what training needs; carries every fault that was found."""

    reason = "data"

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))

    def __reduce__(self) -> tuple[type[DatasetError], tuple[tuple[Fault, ...]]]:
        return (type(self), (self.faults,))


class DiskFullError(DatasetError):
    """There is not enough room for the decoded frames."""

    reason = "out_of_disk"


def dataset_error(where: str, problem: str, remedy: str = "", episodes: Iterable[int] = ()) -> DatasetError:
    """Make an error of one fault: where, what is wrong, what is allowed and what to do, whom to leave out."""
    return DatasetError([Fault(where, problem, remedy, tuple(episodes))])
