"""What the processes of a machine make once and share."""

from __future__ import annotations

import threading

from trainables.dataset.shared_cache import repeating


def test_a_library_that_says_nothing_is_spoken_for() -> None:
    told = list[str]()
    thrice = threading.Event()

    def tell(text: str) -> None:
        told.append(text)
        if len(told) == 3:
            thrice.set()

    with repeating("fetching", tell, every_s=0.01):
        assert thrice.wait(200)
    count = len(told)
    assert set(told) == {"fetching"}
    assert not [thread for thread in threading.enumerate() if thread.name == "told-again"]
    assert len(told) == count
