"""Decode pictures: from mp4 files by time, from parquet files by row. Knows files and rows, no dataset.

Every picture becomes uint8 RGB (or grey, where the feature has one channel), pixel for pixel what LeRobot
sees: swscale's conversion for video, Pillow's for pictures in parquet.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from trainables.dataset.errors import DatasetError, dataset_error
from trainables.dataset.format.files import inside
from trainables.dataset.format.tables import image_cells
from trainables.dataset.format.video import Video, VideoError, opened_video

__all__ = [
    "DEPTH",
    "FramePart",
    "decode_part",
    "decoder_version",
    "depth_video",
    "first_picture",
    "is_depth_mode",
    "lost_frame",
    "open_picture",
]

# Between wanted frames further apart than this, seeking costs less than decoding what lies between.
SEEK_BEYOND_FRAMES = 100
PICTURE_BITS = 8
DEPTH = "a depth map, not a picture"
EXCLUDE = "Repair or fetch the file again, or leave the episode out with dataset.exclude_episodes."


@dataclass(frozen=True)
class FramePart:
    """Frames of one camera that lie in one file, in the order in which they lie there.

    Attributes:
        camera: The feature.
        path: The mp4 or parquet file.
        rows: Rows of the opened dataset, (K,).
        times_s: Times of the frames in the mp4, (K,), ascending; None for parquet.
        in_file: Rows of the parquet file, (K,), ascending; None for video.
        shape: (C, H, W) as info.json has it.
        fps: Frames per second.
        tolerance_s: How far a frame may lie from its time.
        root: The dataset's folder, where pictures may be stored beside the parquet file.
        column: What the camera is called in the parquet file.
        wanted_s: Times of the rows by the metadata, (K,); None for parquet.
        lost: Rows that have no frame of their own in the mp4, (K,); None for parquet.
        by_row: Whether frames were assigned in the order of the rows, because their times differ.
        video: What the mp4 contains; None for parquet, and if it cannot be opened.
        error: Why the mp4 cannot be opened, as the end of a sentence.
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
    wanted_s: NDArray[np.float64] | None = None
    lost: NDArray[np.bool_] | None = None
    by_row: bool = False
    video: Video | None = None
    error: str = ""

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

    def choose_places(self, places: NDArray[np.int64]) -> FramePart:
        """Keep only some of the frames, by their places in ``rows``, in this order."""
        return self._slice(places)

    def _slice(self, which: Any) -> FramePart:
        times_s = None if self.times_s is None else self.times_s[which]
        in_file = None if self.in_file is None else self.in_file[which]
        lost = None if self.lost is None else self.lost[which]
        wanted_s = None if self.wanted_s is None else self.wanted_s[which]
        rows = self.rows[which]
        return replace(self, rows=rows, times_s=times_s, in_file=in_file, wanted_s=wanted_s, lost=lost)


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


def _from_video(part: FramePart, name_row: Callable[[int], str]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    assert part.times_s is not None
    position = 0
    grey = part.shape[0] == 1
    try:
        if part.error:
            raise VideoError(part.error)
        depth = depth_video(part)
        if depth:
            raise VideoError(depth)
        known = part.video is not None
        tolerance_s = max(part.tolerance_s, KNOWN_TIME_S) if known else part.tolerance_s
        kept = len(part.times_s) if part.lost is None or not part.lost.any() else int(part.lost.argmax())
        for frame in _nearest_frames(part.path, part.times_s[:kept], tolerance_s):
            picture = frame.to_ndarray(format="rgb24")
            yield position, picture[..., :1] if grey else picture
            position += 1
        if kept < len(part.times_s):
            raise VideoError(lost_frame(part, kept))
    except VideoError as error:
        where = f"{name_row(int(part.rows[position]))}, {part.camera}"
        raise dataset_error(where, f"the video {error}: {part.path}.", EXCLUDE) from error


def depth_video(part: FramePart) -> str:
    """Say that a video contains depth maps, as the end of a sentence; empty if it does not.

    Grey in more than 8 bits is a distance, also if the codec stores it with empty colours.
    """
    video = part.video
    if video is None or not (video.is_depth or (part.shape[0] == 1 and video.bits > PICTURE_BITS)):
        return ""
    return f"is {video.pixel_format}, {video.bits} bits of grey: {DEPTH}"


def lost_frame(part: FramePart, position: int) -> str:
    """Say why a row has no frame of its own, as the end of a sentence that begins with the video."""
    assert part.times_s is not None
    wanted_s = float(part.times_s[position])
    if not abs(wanted_s) < LATEST_S:  # also if it is not a number
        return _no_time(wanted_s)
    if part.video is None or part.video.frames == 0:
        return _no_frame(wanted_s, None, part.tolerance_s)
    nearest_s = float(part.video.times_s[np.abs(part.video.times_s - wanted_s).argmin()])
    if abs(nearest_s - wanted_s) > part.tolerance_s:
        return _no_frame(wanted_s, nearest_s, part.tolerance_s)
    return f"has one frame at {nearest_s:.4f} s for several rows, or for rows in another order"


KNOWN_TIME_S = 5e-4
"""A frame whose time is known from the file's index lies this near to it, whatever was rounded."""
LATEST_S = 1e8
"""Three years: no video is longer, and what a time base makes of such a time still fits into 64 bits."""


def _nearest_frames(path: Path, times_s: NDArray[np.float64], tolerance_s: float) -> Iterator[Any]:
    """Yield for each of the ascending times the frame that is nearest to it."""
    if not len(times_s):
        return
    no_times = times_s[~(np.abs(times_s) < LATEST_S)]  # also if they are not numbers
    if no_times.size:
        raise VideoError(_no_time(float(no_times[0])))
    first_s = float(times_s[0])
    with opened_video(path) as (container, stream):
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


def _no_time(wanted_s: float) -> str:
    return f"has no frame at {wanted_s:g} s: the dataset's metadata give no time of a video"


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


# -- pictures in parquet


def _from_parquet(part: FramePart, name_row: Callable[[int], str]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    assert part.in_file is not None
    mode = "L" if part.shape[0] == 1 else "RGB"
    for position, encoded, beside in image_cells(part.path, part.column, part.in_file):
        row = int(part.rows[position])
        try:
            found = open_picture(encoded, beside, part.root)
            if is_depth_mode(found.mode):
                raise ValueError(f"its pixels are of Pillow's mode {found.mode}: {DEPTH}")
            picture = found.convert(mode)
        except (OSError, ValueError, SyntaxError) as error:
            problem = f"{part.camera}: the picture cannot be read ({error}): {part.path}."
            raise dataset_error(name_row(row), problem, EXCLUDE) from error
        pixels = np.asarray(picture)
        yield position, pixels[..., None] if mode == "L" else pixels


def first_picture(part: FramePart) -> str:
    """Say what is wrong with the first picture of a part in parquet; empty if nothing is."""
    assert part.in_file is not None
    channels, height, width = part.shape
    try:
        _, encoded, beside = next(image_cells(part.path, part.column, part.in_file[:1], mapped=True))
        found = open_picture(encoded, beside, part.root)
    except DatasetError as error:
        return error.faults[0].problem.rstrip(".")
    except (OSError, ValueError, SyntaxError) as error:
        return f"cannot be read ({error})"
    if is_depth_mode(found.mode):
        return f"has pixels of Pillow's mode {found.mode}: {DEPTH}"
    if (found.height, found.width) != (height, width):
        size = f"{found.height}×{found.width}"
        return f"is {size} px, info.json says {height}×{width} with {channels} channels"
    return ""


def is_depth_mode(mode: str) -> bool:
    """Whether Pillow's mode is of whole numbers of 16 or 32 bits, or of floats: distances, not brightness."""
    return mode.startswith(("I", "F"))


def open_picture(encoded: bytes | None, beside: str | None, root: Path) -> Image.Image:
    """Open a picture of a parquet file, or one beside it, without decoding it.

    Raises:
        OSError, ValueError, SyntaxError: If there is none, or it is damaged.
    """
    if encoded is not None:
        return Image.open(io.BytesIO(encoded))
    if beside is None:
        raise ValueError("the cell is empty")
    return Image.open(root / inside(beside))
