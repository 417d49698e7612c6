"""What no dataset says of itself is refused where it is read."""

from __future__ import annotations

import pytest

from trainables.dataset.errors import DatasetError
from trainables.dataset.format.files import inside


@pytest.mark.parametrize("path", ["videos/" + "1" * 300 + ".mp4", "videos/a\0b.mp4"])
def test_a_name_that_no_file_can_have_is_refused(path: str) -> None:
    with pytest.raises(DatasetError, match="a path in the metadata is not a valid file name"):
        inside(path)
