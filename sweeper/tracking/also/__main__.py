"""Feeds one tracker: ``python -m sweeper.tracking.also FOLDER TRACKER``.

It follows the journal until its standard input is closed: by the driver when the sweep has ended, or by the
system when the driver dies. Then it passes what is left and ends.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from pathlib import Path

from filelock import FileLock

from sweeper.masking import masked
from sweeper.tracking.also.feed import Feed, read_position
from sweeper.tracking.also.runs import Sink

POLL_S = 1.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
LAST_ATTEMPTS = 3
"""How often the rest is tried when the sweep has ended; `sweeper sync` tries again later."""


def make_sink(tracker: str, folder: Path) -> Sink:
    """Open a tracker, to continue after what it has."""
    if tracker == "wandb":
        from sweeper.tracking.also.wandb_runs import WandbRuns

        return WandbRuns(folder)
    if tracker == "trackio":
        from sweeper.tracking.also.trackio_runs import TrackioRuns

        return TrackioRuns()
    from sweeper.tracking.also.tensorboard_files import TensorBoardFiles

    return TensorBoardFiles(folder, read_position(folder, tracker).get("tracker", {}))


def main(folder: Path, tracker: str) -> int:
    """Feed a tracker until the standard input is closed; returns the exit code."""
    over = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    pause_s, attempts = FIRST_PAUSE_S, 0
    # The feeder of a driver that died may still be passing the rest.
    with FileLock(folder / f"{tracker}.lock"):
        while True:
            try:
                _follow(folder, tracker, over)
                return 0
            except Exception:
                print(masked(traceback.format_exc()), file=sys.stderr, flush=True)
                attempts += over.is_set()
                if attempts >= LAST_ATTEMPTS:
                    return 1
                if over.is_set():
                    time.sleep(FIRST_PAUSE_S)
                over.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _follow(folder: Path, tracker: str, over: threading.Event) -> None:
    sink = make_sink(tracker, folder)
    try:
        feed = Feed(folder, tracker, sink)
        while True:
            last = over.is_set()  # before reading, so that the last events are read
            if not feed.step():
                if last:
                    return
                over.wait(POLL_S)
    finally:
        sink.close()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
