"""Only colour pictures train a policy: depth maps, arrays and grey pictures are left out or refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from small_sets import edit_info, edit_table, film_again, numbered_pictures

from trainables.dataset.doctor.preflight import preflight, warnings_of
from trainables.dataset.errors import DatasetError
from trainables.dataset.format.schema import DatasetFeature, says_depth
from trainables.dataset.frames import open_frames
from trainables.dataset.open import open_dataset
from trainables.diffusion_policy.config.diffusion_config import DiffusionConfig
from trainables.diffusion_policy.data import camera_faults
from trainables.features import Feature, FeatureType, PolicyFeatures

FRONT, DEPTH = "observation.images.front", "observation.images.depth"
SIZE = 16
RGB = DatasetFeature("video", (SIZE, SIZE, 3), ["height", "width", "channels"])
PNG = DatasetFeature("image", (SIZE, SIZE, 3), ["height", "width", "channels"])


def change_feature(root: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    info = json.loads((root / "meta" / "info.json").read_text())
    change(info["features"][name])
    edit_info(root, features=info["features"])


def store_pictures(
    root: Path, name: str, picture: Callable[[int], Image.Image], rows: set[int] | None = None
):
    """Put other pictures into the cells of a camera, of some rows or of all."""
    for path in sorted((root / "data").rglob("*.parquet")):

        def edit(table: pa.Table) -> pa.Table:
            cells = table[name].to_pylist()
            for number, row in enumerate(table["index"].to_pylist()):
                if rows is None or row in rows:
                    buffer = io.BytesIO()
                    found = picture(row)
                    found.save(buffer, "TIFF" if found.mode in ("I", "F") else "PNG")
                    cells[number] = {"bytes": buffer.getvalue(), "path": None}
            place = table.column_names.index(name)
            return table.set_column(place, name, pa.array(cells, table.schema.field(name).type))

        edit_table(path, edit)


def millimetres(row: int) -> Image.Image:
    return Image.fromarray(np.full((SIZE, SIZE), 500 + 20 * row, np.uint16))


def as_rgb(path: Path) -> np.ndarray:
    """The frames of a video as FFmpeg converts them, (N, 3, H, W)."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.moveaxis(np.stack(frames), -1, 1)


# -- depth by its flags


@pytest.mark.parametrize(
    "described",
    [
        {"info": {"is_depth_map": True}},
        {"info": {"video.is_depth_map": True}},
        {"video_info": {"video.is_depth_map": True}},
        {"video.is_depth_map": True},
        {"is_depth_map": "true"},
        {"info": {"video": {"is_depth": 1}}},
        {"info": {"video.pix_fmt": "gray12le"}},
        {"info": {"video.pix_fmt": "gray16be"}},
        {"video_info": {"pix_fmt": "Y16"}},
    ],
)
def test_every_way_to_flag_depth_is_understood(described: dict[str, Any]) -> None:
    assert says_depth({"dtype": "video", "shape": [4, 4, 1]} | described)


@pytest.mark.parametrize(
    "described",
    [
        {},
        {"info": None},
        {"info": {"video.is_depth_map": False, "video.pix_fmt": "yuv420p"}},
        {"info": {"is_depth_map": "false"}},
        {"info": {"is_depth_map": None}},
        {"info": {"video.pix_fmt": "gray"}},
        {"info": {"video.pix_fmt": "yuv420p10le"}},
        {"names": ["height", "width", "is_depth_map"]},
    ],
)
def test_other_cameras_are_no_depth_maps(described: dict[str, Any]) -> None:
    assert not says_depth({"dtype": "video", "shape": [4, 4, 3]} | described)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v3.0", "v2.1", "v2.0"])
@pytest.mark.parametrize("kind", [RGB, PNG])
def test_a_flagged_depth_map_is_left_out_and_reported(make_dataset, version, kind):
    root = make_dataset(cameras={FRONT: kind, DEPTH: kind}, lengths=(4, 3), version=version)
    change_feature(root, DEPTH, lambda feature: feature.update(info={"is_depth_map": True}))
    dataset = open_dataset(root)
    assert [camera.name for camera in dataset.policy_features.cameras] == [FRONT]
    (note,) = dataset.notes
    assert (note.check, note.severity, note.where) == ("depth_maps", "warning", DEPTH)
    (line,) = warnings_of(dataset)
    assert line.startswith(f"{DEPTH}: is a depth map by info.json: it is not used.")
    assert preflight(root) == []


def test_a_depth_map_that_was_chosen_is_refused(make_dataset):
    root = make_dataset(cameras={FRONT: PNG, DEPTH: PNG}, lengths=(4, 3))
    change_feature(root, DEPTH, lambda feature: feature.update(is_depth_map=True))
    (fault,) = preflight(root, observations=["observation.state", FRONT, DEPTH])
    assert fault.where == "dataset.observations"
    assert "is a depth map" in fault.problem
    assert fault.remedy == f"Leave it out: dataset.observations: [{FRONT}, observation.state]."
    assert open_dataset(root, observations=["observation.state", FRONT]).notes == ()


# -- depth by what is in the files


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_a_depth_map_without_a_flag_is_refused_before_a_launch(make_dataset, tmp_path, channels, mode):
    root = make_dataset(cameras={FRONT: PNG, DEPTH: PNG}, lengths=(4, 3), version="v2.1")
    change_feature(root, DEPTH, lambda feature: feature.update(shape=[SIZE, SIZE, channels]))

    def picture(row: int) -> Image.Image:
        return millimetres(row) if mode == "I;16" else millimetres(row).convert(mode)

    store_pictures(root, DEPTH, picture)
    (fault,) = preflight(root)
    assert fault.where == DEPTH
    assert "a depth map, not a picture" in fault.problem
    assert f"leave {DEPTH} out of dataset.observations ([{FRONT}, observation.state])" in fault.remedy
    with pytest.raises(DatasetError, match="a depth map, not a picture"):
        open_frames(open_dataset(root), DEPTH, None, tmp_path)


def test_depth_in_a_later_episode_is_found_before_a_launch(make_dataset):
    root = make_dataset(cameras={FRONT: PNG}, lengths=(4, 3, 3), version="v2.1")
    store_pictures(root, FRONT, millimetres, rows={7, 8, 9})
    (fault,) = preflight(root)
    assert "episode 2, frame 0" in fault.problem
    assert "dataset.exclude_episodes: [2]" in fault.remedy


def test_depth_in_the_middle_of_a_file_is_not_clipped(make_dataset):
    root = make_dataset(cameras={FRONT: PNG}, lengths=(4, 3))
    store_pictures(root, FRONT, millimetres, rows={5})
    with pytest.raises(DatasetError, match=r"episode 1, frame 1: .* a depth map, not a picture"):
        open_dataset(root).pictures(FRONT, np.arange(7))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "pixel_format", "stored", "channels"),
    [
        ("ffv1", "gray16le", "gray16le", 3),
        ("ffv1", "gray12le", "gray12le", 1),
        ("ffv1", "gray10le", "gray10le", 3),
        ("libx264", "gray10le", "yuv420p10le", 1),  # the codec stores grey with empty colours
    ],
)
def test_a_depth_video_without_a_flag_is_refused_before_a_launch(
    make_dataset, tmp_path, codec, pixel_format, stored, channels
):
    root = make_dataset(cameras={FRONT: RGB, DEPTH: RGB}, lengths=(4, 3))
    change_feature(root, DEPTH, lambda feature: feature.update(shape=[SIZE, SIZE, channels]))
    path = next((root / "videos" / DEPTH).rglob("*.mp4"))
    depth = np.broadcast_to((300 + 40 * np.arange(7))[:, None, None], (7, SIZE, SIZE)).astype(np.uint16)
    other = path.with_suffix(".mkv")
    film_again(other, depth.copy(), codec=codec, pixel_format=pixel_format, given="gray16le")
    other.replace(path)
    (fault,) = preflight(root)
    assert fault.where == DEPTH
    assert f"is {stored}" in fault.problem
    assert "a depth map, not a picture" in fault.problem
    assert f"leave {DEPTH} out of dataset.observations" in fault.remedy
    assert preflight(root, observations=["observation.state", FRONT]) == []
    with pytest.raises(DatasetError, match="a depth map, not a picture"):
        open_frames(open_dataset(root), DEPTH, None, tmp_path)


# -- pictures of other kinds


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_pictures_of_eight_bits_become_rgb(make_dataset, mode):
    root = make_dataset(cameras={FRONT: PNG}, lengths=(4, 3))

    def picture(_row: int) -> Image.Image:
        found = Image.fromarray(np.full((SIZE, SIZE, 3), 255, np.uint8)).convert(
            "CMYK" if mode == "CMYK" else "RGB"
        )
        return found.convert("RGB") if mode == "CMYK" else found.convert(mode)

    store_pictures(root, FRONT, picture)
    assert preflight(root) == []
    assert open_dataset(root).pictures(FRONT, np.array([3])).min() == 255


@pytest.mark.slow
@pytest.mark.parametrize("pixel_format", ["gray", "yuv420p", "yuv444p"])
def test_a_video_of_eight_bits_is_read_in_any_pixel_format(make_dataset, pixel_format):
    root = make_dataset(cameras={FRONT: RGB}, lengths=(4, 3))
    path = next(root.rglob("*.mp4"))
    film_again(path, numbered_pictures(7, 10), pixel_format=pixel_format)
    assert preflight(root) == []
    np.testing.assert_array_equal(open_dataset(root).pictures(FRONT, np.arange(7)), as_rgb(path))


@pytest.mark.slow
def test_a_grey_camera_is_decoded_and_refused_for_the_policy(make_dataset, tmp_path):
    root = make_dataset(cameras={FRONT: RGB, DEPTH: RGB}, lengths=(4, 3))
    change_feature(root, DEPTH, lambda feature: feature.update(shape=[SIZE, SIZE, 1]))
    film_again(next((root / "videos" / DEPTH).rglob("*.mp4")), numbered_pictures(7, 10), pixel_format="gray")
    dataset = open_dataset(root)
    frames = open_frames(dataset, DEPTH, None, tmp_path).array
    assert frames.shape == (7, 1, SIZE, SIZE)
    np.testing.assert_array_equal(frames, as_rgb(dataset.frame_parts(DEPTH)[0].path)[:, :1])
    config = DiffusionConfig.from_flat({"dataset.root": str(root)})
    (fault,) = camera_faults(config, dataset.policy_features)
    assert fault.where == "dataset.observations"
    assert fault.problem == f"{DEPTH} has 1 channel, but the policy's encoders take pictures with 3."
    assert fault.remedy.endswith(f"leave it out: dataset.observations: [{FRONT}, observation.state].")


@pytest.mark.parametrize("channels", [(1,), (3, 1), (4,), (3, 4), (1, 1)])
def test_every_camera_has_three_channels(channels: tuple[int, ...]) -> None:
    inputs = [
        Feature(f"observation.images.{place}", FeatureType.VISUAL, (count, SIZE, SIZE))
        for place, count in enumerate(channels)
    ]
    features = PolicyFeatures(tuple(inputs), Feature("action", FeatureType.ACTION, (2,)))
    faults = camera_faults(DiffusionConfig.from_flat({"dataset.root": "set"}), features)
    assert len(faults) == sum(count != 3 for count in channels)


# -- cameras that would vanish


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "described"),
    [
        ("observation.images.wrist", {"dtype": "uint8", "shape": [SIZE, SIZE, 3]}),
        ("observation.images.wrist", {"dtype": "uint8", "shape": [3, SIZE, SIZE]}),
        ("observation.images.wrist", {"dtype": "float32", "shape": [SIZE, SIZE, 3]}),
        ("observation.wrist", {"dtype": "uint8", "shape": [SIZE, SIZE, 3]}),
        ("observation.images.wrist", {"dtype": "uint8", "shape": [SIZE, SIZE]}),
        ("observation.images.wrist", {"dtype": "mp4", "shape": [SIZE, SIZE, 3]}),
        ("observation.images.wrist", {"dtype": "images", "shape": [SIZE, SIZE, 3]}),
        ("observation.images.wrist", {"dtype": "video", "shape": [SIZE, SIZE]}),
        ("observation.images.wrist", {"dtype": "video", "shape": None}),
        ("observation.images.wrist", {"dtype": "image"}),
        ("wrist", {"dtype": "int64", "shape": [1], "info": {"video.codec": "h264"}}),
    ],
)
def test_a_camera_that_is_described_wrongly_is_refused(make_dataset, name, described):
    root = make_dataset(lengths=(4, 3))
    info = json.loads((root / "meta" / "info.json").read_text())
    edit_info(root, features=info["features"] | {name: {"names": None} | described})
    (fault,) = preflight(root)
    assert fault.where.endswith("info.json")
    assert fault.problem.startswith(f"{name} ")
    assert "camera" in fault.problem
    assert "dataset.observations: [observation.state]" in fault.remedy
    assert preflight(root, observations=["observation.state"]) == []
    (chosen,) = preflight(root, observations=["observation.state", name])
    assert chosen.where == "dataset.observations"


@pytest.mark.parametrize(
    ("name", "described"),
    [
        ("observation.tactile", {"dtype": "float32", "shape": [16, 16, 3]}),
        ("observation.points", {"dtype": "float32", "shape": [1024, 3]}),
        ("observation.images.depth", {"dtype": "uint16", "shape": [SIZE, SIZE, 1]}),
        ("observation.pose", {"dtype": "float32", "shape": [4, 4, 1]}),
        ("observation.camera_pose", {"dtype": "float32", "shape": [7]}),
        ("observation.camera_matrix", {"dtype": "float32", "shape": [3, 3]}),
    ],
)
def test_other_arrays_are_not_taken_for_cameras(make_dataset, name, described):
    root = make_dataset(lengths=(4, 3))
    info = json.loads((root / "meta" / "info.json").read_text())
    edit_info(root, features=info["features"] | {name: {"names": None} | described})
    assert preflight(root) == []


def test_a_camera_whose_type_is_written_in_capitals_is_used(make_dataset):
    root = make_dataset(cameras={FRONT: RGB}, lengths=(4, 3))
    change_feature(root, FRONT, lambda feature: feature.update(dtype="VIDEO"))
    assert open_dataset(root).pictures(FRONT, np.array([0])).shape == (1, 3, SIZE, SIZE)


def test_of_several_sets_each_is_looked_at(make_dataset):
    one, two = make_dataset("one", lengths=(4, 3)), make_dataset("two", lengths=(4, 3))
    info = json.loads((two / "meta" / "info.json").read_text())
    wrist = {"dtype": "uint8", "shape": [SIZE, SIZE, 3], "names": None}
    edit_info(two, features=info["features"] | {"observation.images.wrist": wrist})
    assert "seems to be a camera" in str(preflight([one, two])[0])
    assert preflight([one, two], observations=["observation.state"]) == []


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_videos_of_a_camera_that_is_not_listed_are_reported(make_dataset, version):
    root = make_dataset(cameras={FRONT: RGB, DEPTH: RGB}, lengths=(4, 3), version=version)
    assert open_dataset(root, features={FRONT: "observation.images.other"}).notes == ()
    info = json.loads((root / "meta" / "info.json").read_text())
    edit_info(root, features={name: value for name, value in info["features"].items() if name != DEPTH})
    assert preflight(root) == []
    (note,) = open_dataset(root).notes
    assert (note.check, note.severity) == ("unlisted_videos", "warning")
    assert note.problem.startswith(f"there are videos of {DEPTH}, and info.json has no such feature")
