"""What a video file contains, read without decoding it, and the priority at which videos are encoded."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from trainables.dataset.format.files import foreign_content
from trainables.dataset.format.schema import DEPTH_FORMAT

__all__ = ["Video", "VideoError", "opened_video", "ordinary_priority", "probe_video"]


class VideoError(Exception):
    """What is wrong with a video file, as the end of a sentence that begins with the file."""


@dataclass(frozen=True)
class Video:
    """What a video file contains.

    Attributes:
        frames: How many frames its header lists. A file that is cut off may have fewer.
        first_s: Time of the first frame in seconds.
        step_s: Seconds from one frame to the next; None if they are not evenly spaced.
        last_frame_s: Time of the last frame that is in the file; -1 if there is none.
        height: Height of the frames, in pixels.
        width: Width of the frames, in pixels.
        pixel_format: FFmpeg's name of the pixel format, such as ``yuv420p``.
        bits: Bits of a pixel's largest component.
        uneven_s: Time of each frame, (F,), if they are not evenly spaced: most files need no list in memory.
    """

    frames: int
    first_s: float
    step_s: float | None
    last_frame_s: float
    height: int
    width: int
    pixel_format: str
    bits: int
    uneven_s: NDArray[np.float64] | None = None

    @property
    def times_s(self) -> NDArray[np.float64]:
        """Time of each frame in seconds, ascending, (F,)."""
        if self.uneven_s is not None:
            return self.uneven_s
        times_s: NDArray[np.float64] = self.first_s + np.arange(self.frames, dtype=np.float64) * (
            self.step_s or 0
        )
        return times_s

    @property
    def is_depth(self) -> bool:
        """Whether the frames are grey with more bits than a picture has."""
        return re.fullmatch(DEPTH_FORMAT, self.pixel_format) is not None


def probe_video(path: Path) -> Video:
    """Read the header of a video file, and its last packets.

    The whole file is read if the header does not list the frames, or if the file is cut off.

    Raises:
        VideoError: If the file is missing, cannot be opened, or has no frames.
    """
    with opened_video(path) as (container, stream):
        times_s = _listed_times(stream)
        promised_s = float(stream.duration * stream.time_base) if stream.duration else 0.0
        if times_s is None:
            times_s = _packet_times(container, stream)
            last_s = float(times_s[-1]) if len(times_s) else -1.0
        else:
            last_s = _last_packet_s(container, stream, promised_s)
            if last_s < float(times_s[-1]) - 0.5 / float(stream.average_rate or 1):
                last_s = _last_packet_s(container, stream, 0.0)
        context = stream.codec_context
        if not (context.width and context.height):
            raise VideoError("is damaged: its pictures have no size")
        components = context.format.components if context.format is not None else ()
        steps_s = np.diff(times_s)
        # The times are whole numbers of ticks: equal steps differ by rounding only.
        even = len(times_s) > 0 and (
            not len(steps_s) or float(np.ptp(steps_s)) < 0.5 * float(stream.time_base)
        )
        span_s = float(times_s[-1] - times_s[0]) if len(times_s) else 0.0
        return Video(
            len(times_s),
            float(times_s[0]) if len(times_s) else 0.0,
            span_s / max(len(times_s) - 1, 1) if even else None,
            last_s,
            context.height,
            context.width,
            context.pix_fmt or "",
            max((component.bits for component in components), default=8),
            None if even else times_s,
        )


@contextmanager
def opened_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a video file and find its stream of frames.

    Raises:
        VideoError: If the file is missing, cannot be opened, or fails while it is read.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError("has no pictures")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise VideoError("is in a format that this build of PyAV cannot decode")
            stream.codec_context.thread_count = 1  # several files or parts are decoded at once instead
            yield container, stream
    except FileNotFoundError as error:
        raise VideoError("is missing") from error
    except av.FFmpegError as error:
        foreign = foreign_content(path)
        raise VideoError(foreign or f"is damaged ({error.strerror})") from error


def _listed_times(stream: Any) -> NDArray[np.float64] | None:
    """Times of the frames as the file's index lists them; None if the index does not give all of them."""
    entries = [entry.timestamp for entry in stream.index_entries if not entry.is_discard]
    if not entries or len(entries) != stream.frames or stream.start_time is None:
        return None
    # The index has decoding times. They are those of showing, shifted, if the frames are evenly spaced or are
    # shown in the order in which they are decoded.
    ticks = np.array(entries, np.int64)
    steps = np.diff(ticks)
    even = not len(steps) or int(steps.max()) - int(steps.min()) <= 1
    if not even and (stream.codec_context.has_b_frames or (steps <= 0).any()):
        return None
    return (ticks - ticks[0] + stream.start_time).astype(np.float64) * float(stream.time_base)


def _packet_times(container: Any, stream: Any) -> NDArray[np.float64]:
    """Times of the frames by the packets of the whole file."""
    times: list[int] = []
    with suppress(av.FFmpegError):  # after damage there are no frames
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None and not packet.is_discard:
                times.append(packet.pts)  # noqa: PERF401  (what was read before the damage counts)
    return np.sort(np.array(times, np.float64)) * float(stream.time_base)


def _last_packet_s(container: Any, stream: Any, start_s: float) -> float:
    last = None
    try:
        container.seek(int(start_s / stream.time_base), stream=stream, backward=True)
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None and not packet.is_corrupt:
                last = packet.pts if last is None else max(last, packet.pts)
    except av.FFmpegError:
        pass  # after damage nothing can be read; what was read before it counts
    return -1.0 if last is None else float(last * stream.time_base)


@contextmanager
def ordinary_priority() -> Iterator[None]:
    """Let an encoder that is opened within it run at the priority of this thread; open encoders in here only.

    SVT-AV1 gives the thread that opens it, and its own threads, the highest real-time priority if the user is
    root, as in most containers. They, and every process started afterwards, would take the CPUs from the rest
    of the machine.
    """
    if not hasattr(os, "sched_getscheduler"):  # only Linux
        yield
        return
    tasks = Path("/proc/self/task")
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    before = {thread.name for thread in tasks.iterdir()}
    try:
        yield
    finally:
        for thread in [0, *(int(thread.name) for thread in tasks.iterdir() if thread.name not in before)]:
            with suppress(ProcessLookupError):  # it ended while we looked
                if os.sched_getscheduler(thread) != policy:
                    os.sched_setscheduler(thread, policy, parameters)
