"""Decode pictures: from mp4 files by time, from parquet files by row. Knows files and rows, no dataset.

Every picture becomes uint8 RGB (or grey, where the feature has one channel), pixel for pixel what LeRobot
sees: swscale's conversion for video, Pillow's for pictures in parquet.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from trainables.dataset.errors import dataset_error
from trainables.dataset.format.metadata import inside
from trainables.dataset.format.tables import image_cells

__all__ = [
    "FramePart",
    "VideoEnd",
    "VideoError",
    "decode_part",
    "decoder_version",
    "packet_times",
    "probe_video",
]

# Between wanted frames further apart than this, seeking costs less than decoding what lies between.
SEEK_BEYOND_FRAMES = 100
EXCLUDE = "Repair or fetch the file again, or leave the episode out with dataset.exclude_episodes."


@dataclass(frozen=True)
class FramePart:
    """Frames of one camera that lie in one file, in the order in which they lie there.

    Attributes:
        camera: The feature.
        path: The mp4 or parquet file.
        rows: Rows of the opened dataset, (K,).
        times_s: Times in the mp4, (K,), ascending; None for parquet.
        in_file: Rows of the parquet file, (K,), ascending; None for video.
        shape: (C, H, W) as info.json has it.
        fps: Frames per second.
        tolerance_s: How far a frame may lie from its time.
        root: The dataset's folder, where pictures may be stored beside the parquet file.
        column: What the camera is called in the parquet file.
    """

    camera: str
    path: Path
    rows: NDArray[np.int64]
    times_s: NDArray[np.float64] | None
    in_file: NDArray[np.int64] | None
    shape: tuple[int, int, int]
    fps: float
    tolerance_s: float
    root: Path
    column: str

    def split(self, most_frames: int) -> list[FramePart]:
        """Cut into parts that can be decoded one by one: short enough, and without long gaps in time."""
        cuts = set(range(0, len(self.rows), most_frames)) | {len(self.rows)}
        if self.times_s is not None:
            gaps = np.diff(self.times_s) * self.fps > SEEK_BEYOND_FRAMES
            cuts |= set((np.flatnonzero(gaps) + 1).tolist())
        ordered = sorted(cuts)
        return [self._slice(slice(a, b)) for a, b in pairwise(ordered)]

    def choose(self, rows: NDArray[np.int64]) -> FramePart:
        """Keep only some rows of the opened dataset."""
        return self._slice(np.flatnonzero(np.isin(self.rows, rows)))

    def _slice(self, which: Any) -> FramePart:
        times_s = None if self.times_s is None else self.times_s[which]
        in_file = None if self.in_file is None else self.in_file[which]
        return replace(self, rows=self.rows[which], times_s=times_s, in_file=in_file)


def decoder_version(video: bool) -> str:
    """Name what decodes: frames that another version decoded are not mixed with this one's."""
    if not video:
        return f"pillow-{PIL.__version__}"
    libraries = av.library_versions
    numbers = (".".join(map(str, libraries[name])) for name in ("libavcodec", "libswscale"))
    return f"av-{'-'.join(numbers)}-pillow-{PIL.__version__}"


def decode_part(
    part: FramePart, size: tuple[int, int] | None, name_row: Callable[[int], str]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Decode the frames of one part.

    Args:
        part: Which frames.
        size: Wanted (height, width), bilinear with antialiasing; None: as recorded.
        name_row: Says which episode and frame a row is, for the error's text.

    Yields:
        Row of the opened dataset, and its picture (C, H, W).

    Raises:
        DatasetError: If the file is missing or damaged, has no frame near enough to a row's time, or has
            pictures of another size than info.json says.
    """
    pictures = _from_video(part, name_row) if part.times_s is not None else _from_parquet(part, name_row)
    for position, picture_HWC in pictures:
        row = int(part.rows[position])
        channels, height, width = part.shape
        if picture_HWC.shape != (height, width, channels):
            problem = f"{part.camera} is {picture_HWC.shape} in {part.path}, info.json says {part.shape[1:]}."
            raise dataset_error(name_row(row), problem, EXCLUDE)
        if size is not None and size != (height, width):
            picture_HWC = _resize(picture_HWC, size)
        yield row, np.moveaxis(picture_HWC, -1, 0)


def _resize(picture_HWC: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    grey = picture_HWC.shape[-1] == 1
    image = Image.fromarray(picture_HWC[..., 0] if grey else picture_HWC)
    # Pillow's bilinear filter widens with the scale: it is the antialiased one.
    resized = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return resized[..., None] if grey else resized


# -- video


class VideoError(Exception):
    """What is wrong with a video file, as the end of a sentence that begins with the file."""


@dataclass(frozen=True)
class VideoEnd:
    """What a video file holds, by its packets.

    Attributes:
        last_frame_s: Time of the last frame that is really there; -1 if there is none.
        height: Height of the pictures, in pixels.
        width: Width of the pictures, in pixels.
        frames: Frames by the file's own account; 0 if it does not say.
    """

    last_frame_s: float
    height: int
    width: int
    frames: int = 0


def probe_video(path: Path) -> VideoEnd:
    """Look at a video file without decoding it.

    Only the end is read if the file is whole; a file that breaks off is read from its start.

    Raises:
        VideoError: If the file is missing or cannot be opened.
    """
    with _opened(path) as (container, stream):
        promised_s = float(stream.duration * stream.time_base) if stream.duration else 0.0
        last_s = _last_packet_s(container, stream, promised_s)
        frame_s = 1 / float(stream.average_rate or 1)
        if last_s < promised_s - 1.5 * frame_s:
            last_s = _last_packet_s(container, stream, 0.0)
        return VideoEnd(last_s, stream.codec_context.height, stream.codec_context.width, stream.frames)


def packet_times(path: Path) -> NDArray[np.float64]:
    """Times of all frames of a video file in seconds, ascending; reads the whole file, decodes nothing.

    Raises:
        VideoError: If the file is missing or cannot be opened.
    """
    times: list[int] = []
    with _opened(path) as (container, stream):
        with suppress(av.FFmpegError):  # what lies behind a break has no frames
            for packet in container.demux(stream):
                if packet.size and packet.pts is not None:
                    times.append(packet.pts)  # noqa: PERF401  (what was read before a break counts)
        if not times:
            raise VideoError("has no frames")
        return np.sort(np.array(times, np.float64)) * float(stream.time_base)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a video file and find its stream of pictures; says in words what goes wrong meanwhile."""
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
        raise VideoError(f"is damaged ({error.strerror})") from error


def _from_video(part: FramePart, name_row: Callable[[int], str]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    assert part.times_s is not None
    position = 0
    try:
        for frame in _nearest_frames(part.path, part.times_s, part.tolerance_s):
            yield position, frame.to_ndarray(format="rgb24")
            position += 1
    except VideoError as error:
        where = f"{name_row(int(part.rows[position]))}, {part.camera}"
        raise dataset_error(where, f"the video {error}: {part.path}.", EXCLUDE) from error


LATEST_S = 1e8
"""Three years: no video is longer, and what a time base makes of such a time still fits into 64 bits."""


def _nearest_frames(path: Path, times_s: NDArray[np.float64], tolerance_s: float) -> Iterator[Any]:
    """Yield for each of the ascending times the frame that is nearest to it."""
    no_times = times_s[~(np.abs(times_s) < LATEST_S)]  # also if they are not numbers
    if no_times.size:
        raise VideoError(f"has no frame at {no_times[0]:g} s: the dataset's metadata give no time of a video")
    first_s = float(times_s[0])
    with _opened(path) as (container, stream):
        frames = _frames_from(container, stream, first_s)
        earlier = next(frames, None)
        if earlier is not None and earlier.time > first_s + tolerance_s:
            # The file's index led past the wanted frame: decode from the start.
            frames = _frames_from(container, stream, 0.0)
            earlier = next(frames, None)
        later = None if earlier is None else next(frames, None)
        for wanted_s in times_s:
            while later is not None and later.time <= wanted_s:
                earlier, later = later, next(frames, None)
            near = [frame for frame in (earlier, later) if frame is not None]
            found = min(near, key=lambda frame: abs(frame.time - wanted_s), default=None)
            if found is None or abs(found.time - wanted_s) > tolerance_s:
                raise VideoError(_no_frame(wanted_s, None if found is None else found.time, tolerance_s))
            yield found


def _no_frame(wanted_s: float, nearest_s: float | None, tolerance_s: float) -> str:
    nearest = "none at all" if nearest_s is None else f"the nearest at {nearest_s:.4f} s"
    return f"has no frame within {tolerance_s:g} s (dataset.tolerance_s) of {wanted_s:.4f} s, {nearest}"


def _frames_from(container: Any, stream: Any, start_s: float) -> Iterator[Any]:
    """Decode in order of time from the last key frame at or before ``start_s``, as far as the file goes."""
    container.seek(int(start_s / stream.time_base), stream=stream, backward=True)
    damaged = False
    try:
        for packet in container.demux(stream):
            # Behind damage only the last, empty packet counts: the decoder gives what it still holds.
            if damaged and packet.size:
                continue
            try:
                frames = packet.decode()
            except av.FFmpegError:
                # Where no wanted frame lies behind it, it does no harm; where one does, it will be missed.
                damaged = True
                continue
            yield from (frame for frame in frames if frame.pts is not None)
    except av.FFmpegError:
        return


def _last_packet_s(container: Any, stream: Any, start_s: float) -> float:
    last = None
    try:
        container.seek(int(start_s / stream.time_base), stream=stream, backward=True)
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None and not packet.is_corrupt:
                last = packet.pts if last is None else max(last, packet.pts)
    except av.FFmpegError:
        pass  # what lies behind the break cannot be read; what lies before it was counted
    return -1.0 if last is None else float(last * stream.time_base)


# -- pictures in parquet


def _from_parquet(part: FramePart, name_row: Callable[[int], str]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    assert part.in_file is not None
    mode = "L" if part.shape[0] == 1 else "RGB"
    for position, encoded, beside in image_cells(part.path, part.column, part.in_file):
        row = int(part.rows[position])
        try:
            picture = _open_picture(encoded, beside, part.root).convert(mode)
        except (OSError, ValueError, SyntaxError) as error:
            problem = f"{part.camera}: the picture cannot be read ({error}): {part.path}."
            raise dataset_error(name_row(row), problem, EXCLUDE) from error
        pixels = np.asarray(picture)
        yield position, pixels[..., None] if mode == "L" else pixels


def _open_picture(encoded: bytes | None, beside: str | None, root: Path) -> Image.Image:
    if encoded is not None:
        return Image.open(io.BytesIO(encoded))
    if beside is None:
        raise ValueError("the cell is empty")
    return Image.open(root / inside(beside))
