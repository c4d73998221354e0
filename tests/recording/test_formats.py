"""Recordings as people have them, each written by the tool that people use."""

from __future__ import annotations

import json
import math
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import tifffile

from lodestar_live.errors import InputError
from lodestar_live.recording.movies import Choice, open_movie, read_image

# ndstorage 0.1.18 leaves a file of its own open where it writes.
LEAKS = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
STACK = np.random.default_rng(0).integers(0, 4000, (5, 2, 16, 20), dtype=np.uint16)


def expect(movie, *, n, interval_s, pixel_size_um) -> None:
    """Check shape, time and pixel size; NaN means that they must be unknown."""
    assert len(movie) == n
    assert movie[0].shape == (16, 20)
    assert movie.interval_s == pytest.approx(interval_s, nan_ok=True)
    assert movie.pixel_size_um == pytest.approx(pixel_size_um, nan_ok=True)
    assert movie.time_axis == ("none" if math.isnan(interval_s) else "metadata")


def test_imagej_hyperstack(tmp_path: Path) -> None:
    path = tmp_path / "ij.tif"
    tifffile.imwrite(
        path, STACK[:, None], imagej=True, resolution=(8.0, 8.0),
        metadata={"axes": "TZCYX", "finterval": 0.04, "unit": "um"},
    )  # fmt: skip
    movie = open_movie(path, Choice(channel="1"))
    expect(movie, n=5, interval_s=0.04, pixel_size_um=0.125)
    np.testing.assert_array_equal(np.stack(list(movie)), STACK[:, 1])
    both = open_movie(path)
    assert (len(both), both.channels) == (10, ["0", "1"])
    with pytest.raises(InputError, match="choose one with --channel"):
        read_image(path)
    with pytest.raises(InputError, match=r"2 channels .0, 1.; choose one"):
        both.require_one()


def test_ome_tiff(tmp_path: Path) -> None:
    path = tmp_path / "m.ome.tif"
    tifffile.imwrite(
        path, STACK,
        metadata={
            "axes": "TCYX", "TimeIncrement": 40.0, "TimeIncrementUnit": "ms",
            "PhysicalSizeX": 108.0, "PhysicalSizeXUnit": "nm",
            "PhysicalSizeY": 108.0, "PhysicalSizeYUnit": "nm",
            "Channel": {"Name": ["DAPI", "GFP"]},
            "Plane": {"ExposureTime": [0.01, 0.02] * 5},
        },
    )  # fmt: skip
    movie = open_movie(path, Choice(channel="GFP", frames="1:4"))
    expect(movie, n=3, interval_s=0.04, pixel_size_um=0.108)
    np.testing.assert_array_equal(np.stack(list(movie)), STACK[1:4, 1])
    assert {plane.channel for plane in movie.planes} == {"GFP"}
    assert {plane.exposure_ms for plane in movie.planes} == {20.0}


def test_plain_tiff_has_neither_time_nor_pixel_size(tmp_path: Path) -> None:
    path = tmp_path / "plain.tif"
    tifffile.imwrite(path, STACK[:, 0], photometric="minisblack")
    expect(open_movie(path), n=5, interval_s=math.nan, pixel_size_um=math.nan)
    said = open_movie(path, Choice(fps=25.0, pixel_size_um=0.2))
    assert (said.time_axis, said.interval_s) == ("fps", pytest.approx(0.04))
    assert said.pixel_size_um == 0.2


def test_pages_written_one_by_one_are_frames(tmp_path: Path) -> None:
    path = tmp_path / "pages.tif"
    with tifffile.TiffWriter(path) as writer:
        for image in STACK[:, 0]:
            writer.write(image, contiguous=False, compression="zlib")
    np.testing.assert_array_equal(np.stack(list(open_movie(path))), STACK[:, 0])


def mm_stack(path: Path, *, positions: int = 1, position: int = 0) -> None:
    """Write a stack with Micro-Manager 2's metadata in every page."""
    summary = {"ChNames": ["Cy5", "FITC"], "Positions": positions}
    with tifffile.TiffWriter(path) as writer:
        for t, c in np.ndindex(5, 2):
            metadata = {
                "FrameIndex": t, "ChannelIndex": c, "SliceIndex": 0, "Channel": "x",
                "PositionIndex": position, "PositionName": f"Pos{position}",
                "ElapsedTime-ms": 1000.0 + 50.0 * t + 25.0 * c, "Exposure-ms": 10.0,
                "PixelSizeUm": 0.16, "PixelSizeAffine": "0.16;0.0;0.0;0.0;-0.16;0.0",
                "XPositionUm": 100.0 + t, "YPositionUm": 7.0, "ZPositionUm": 2.0,
                "Summary": summary,
            }  # fmt: skip
            writer.write(
                STACK[t, c] + position, contiguous=False, metadata=None,
                extratags=[(51123, "s", 0, json.dumps(metadata), True)],
            )  # fmt: skip


def test_micro_manager_stack_with_its_clock_stage_and_affine(tmp_path: Path) -> None:
    path = tmp_path / "run_MMStack_Pos0.ome.tif"
    mm_stack(path)
    movie = open_movie(path, Choice(channel="x"))
    assert len(movie) == 10  # without a summary in the file's header: by their own name
    expect(movie, n=10, interval_s=0.05, pixel_size_um=0.16)
    assert movie.planes[2].t_s - movie.planes[0].t_s == pytest.approx(0.05)
    assert movie.planes[2].stage_um == (2.0, 7.0, 101.0)
    assert movie.affine_um_per_px == [[-0.16, 0.0], [0.0, 0.16]]
    np.testing.assert_array_equal(movie[3], STACK[1, 1])


def test_micro_manager_positions_of_one_folder_are_one_recording(
    tmp_path: Path,
) -> None:
    for number in range(2):
        mm_stack(
            tmp_path / f"a_MMStack_Pos{number}.ome.tif", positions=2, position=number
        )
    movie = open_movie(tmp_path)
    assert movie.positions == ["Pos0", "Pos1"]
    second = open_movie(tmp_path, Choice(position="Pos1"))
    np.testing.assert_array_equal(second[0], STACK[0, 0] + 1)


@LEAKS
def test_ndtiff_of_pycro_manager(tmp_path: Path) -> None:
    from ndstorage import NDTiffDataset

    dataset = NDTiffDataset(
        str(tmp_path), summary_metadata={}, writable=True, name="run"
    )
    for t in range(5):
        for c, name in enumerate(("DAPI", "GFP")):
            metadata = {
                "PixelSizeUm": 0.11, "Exposure": 4.0 + 4.0 * c,
                "TimeReceivedByCore": f"2026-01-31 10:00:00.{t * 40000:06d}",
                "XPositionUm": 5.0 * t, "YPositionUm": 1.0,
            }  # fmt: skip
            dataset.put_image({"time": t, "channel": name}, STACK[t, c], metadata)
    dataset.finish()
    dataset.close()
    movie = open_movie(tmp_path, Choice(channel="GFP"))
    expect(movie, n=5, interval_s=0.04, pixel_size_um=0.11)
    np.testing.assert_array_equal(np.stack(list(movie)), STACK[:, 1])
    assert [plane.stage_um.x_um for plane in movie.planes] == [0, 5, 10, 15, 20]
    # middle of the exposure: the longer one began as much earlier
    both = open_movie(tmp_path)
    mids = {plane.channel: plane.t_s for plane in both.planes if plane.time_index == 0}
    assert mids["DAPI"] - mids["GFP"] == pytest.approx(0.002, abs=1e-5)


@LEAKS
def test_ndtiff_with_an_unknown_axis_is_refused_by_name(tmp_path: Path) -> None:
    from ndstorage import NDTiffDataset

    dataset = NDTiffDataset(
        str(tmp_path), summary_metadata={}, writable=True, name="run"
    )
    dataset.put_image({"time": 0, "angle": 1}, STACK[0, 0], {})
    dataset.finish()
    dataset.close()
    with pytest.raises(InputError, match="axes angle are not understood"):
        open_movie(tmp_path)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr(tmp_path: Path, version: str) -> None:
    zarr = pytest.importorskip("zarr")
    scales = [{"type": "scale", "scale": [0.04, 1.0, 0.13, 0.13]}]
    image = {
        "axes": [
            {"name": "t", "type": "time", "unit": "second"},
            {"name": "c", "type": "channel"},
            {"name": "y", "type": "space", "unit": "micrometer"},
            {"name": "x", "type": "space", "unit": "micrometer"},
        ],
        "datasets": [{"path": "0", "coordinateTransformations": scales}],
    }
    named = {"channels": [{"label": "A"}, {"label": "B"}]}
    metadata = {"multiscales": [{**image, "version": version}], "omero": named}
    zarr_format = 2 if version == "0.4" else 3
    group = zarr.open_group(tmp_path / "m.zarr", mode="w", zarr_format=zarr_format)
    group.create_array("0", data=STACK, chunks=(1, 1, 16, 20))
    group.attrs.update(metadata if version == "0.4" else {"ome": metadata})
    movie = open_movie(tmp_path / "m.zarr", Choice(channel="B"))
    expect(movie, n=5, interval_s=0.04, pixel_size_um=0.13)
    np.testing.assert_array_equal(np.stack(list(movie)), STACK[:, 1])


@pytest.mark.parametrize("suffix", ["avi", "mp4"])
def test_video_at_its_own_rate(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("imageio_ffmpeg")
    frames = np.zeros((12, 64, 96), np.uint8)
    for index, frame in enumerate(frames):
        frame[20:30, 4 * index : 4 * index + 10] = 200
    with imageio.get_writer(tmp_path / f"m.{suffix}", fps=24, quality=9) as writer:
        for frame in frames:
            writer.append_data(np.repeat(frame[..., None], 3, axis=-1))
    movie = open_movie(tmp_path / f"m.{suffix}")
    assert (len(movie), movie[0].shape) == (12, (64, 96))
    assert movie.interval_s == pytest.approx(1 / 24, rel=1e-3)
    assert np.abs(movie[5].astype(int) - frames[5]).mean() < 5
    movie.close()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((500, 500, 50), np.uint16), "--axes tyx or --axes yxt"),
        (np.zeros((200, 300, 3), np.uint16) + np.arange(3, dtype=np.uint16), "colour"),
        (np.zeros((2, 3, 16, 20), np.uint16), "name the axes with --axes"),
    ],
)
def test_axes_that_are_doubtful_are_refused(tmp_path: Path, array, message) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=message):
        open_movie(tmp_path / "a.npy")


def test_axes_that_the_user_names_are_taken(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.moveaxis(STACK[:, 0], 0, -1))
    np.save(tmp_path / "b.npy", STACK)
    last = open_movie(tmp_path / "a.npy", Choice(axes="yxt"))
    np.testing.assert_array_equal(np.stack(list(last)), STACK[:, 0])
    second = open_movie(tmp_path / "b.npy", Choice(axes="tcyx", channel="1"))
    np.testing.assert_array_equal(np.stack(list(second)), STACK[:, 1])
    with pytest.raises(InputError, match="one letter each"):
        open_movie(tmp_path / "b.npy", Choice(axes="tyx"))


def test_slices_along_z_are_chosen_not_taken_for_time(tmp_path: Path) -> None:
    path = tmp_path / "z.tif"
    tifffile.imwrite(
        path, STACK, imagej=True, metadata={"axes": "TZYX", "finterval": 0.04}
    )
    with pytest.raises(InputError, match=r"2 slices along z .0 to 1.*--z"):
        open_movie(path)
    np.testing.assert_array_equal(open_movie(path, Choice(z=1))[3], STACK[3, 1])


def test_choices_that_do_not_exist_are_named(tmp_path: Path) -> None:
    path = tmp_path / "ij.tif"
    tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "TCYX"})
    with pytest.raises(InputError, match="no channel 'GFP'; it has '0', '1'"):
        open_movie(path, Choice(channel="GFP"))
    with pytest.raises(InputError, match=r"expected first:last"):
        open_movie(path, Choice(frames="all"))
    with pytest.raises(InputError, match="fps = 0"):
        Choice(fps=0.0)
    with pytest.raises(InputError, match="nothing is left"):
        open_movie(path, Choice(frames="9:"))


def write_zarr_image(group, stack: np.ndarray, axes: str = "tcyx") -> None:
    """Write one OME-Zarr 0.4 image, 25 frames per second, 0.13 µm."""
    kinds = {
        "t": {"type": "time", "unit": "second"},
        "c": {"type": "channel"},
        "y": {"type": "space", "unit": "micrometer"},
        "x": {"type": "space", "unit": "micrometer"},
    }
    size = {"t": 0.04, "c": 1.0, "y": 0.13, "x": 0.13}
    scale = [{"type": "scale", "scale": [size[a] for a in axes]}]
    group.create_array("0", data=stack, chunks=(1,) * (stack.ndim - 2) + (16, 20))
    group.attrs["multiscales"] = [
        {
            "version": "0.4",
            "axes": [{"name": a, **kinds[a]} for a in axes],
            "datasets": [{"path": "0", "coordinateTransformations": scale}],
        }
    ]


def test_ome_zarr_plate_has_its_fields_as_positions(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    plate = zarr.open_group(tmp_path / "p.zarr", mode="w", zarr_format=2)
    plate.attrs["plate"] = {"wells": [{"path": "A/1"}, {"path": "B/2"}]}
    for number, well in enumerate(("A/1", "B/2")):
        group = plate.require_group(well)
        group.attrs["well"] = {"images": [{"path": "0"}, {"path": "1"}]}
        for image in range(2):
            field = group.require_group(str(image))
            write_zarr_image(field, STACK[:, 0] + 10 * number + image, "tyx")
    movie = open_movie(tmp_path / "p.zarr")
    assert (len(movie), movie.positions) == (20, ["A/1/0", "A/1/1", "B/2/0", "B/2/1"])
    assert movie.time_axis == "metadata"
    one = open_movie(tmp_path / "p.zarr", Choice(position="B/2/1"))
    expect(one, n=5, interval_s=0.04, pixel_size_um=0.13)
    np.testing.assert_array_equal(np.stack(list(one)), STACK[:, 0] + 11)
    well = open_movie(tmp_path / "p.zarr" / "A" / "1", Choice(position="1"))
    np.testing.assert_array_equal(np.stack(list(well)), STACK[:, 0] + 1)
    with pytest.raises(InputError, match="no position 'C/1/0'; it has 'A/1/0'"):
        open_movie(tmp_path / "p.zarr", Choice(position="C/1/0"))


def test_numbered_images_of_one_ome_zarr_are_positions(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    root = zarr.open_group(tmp_path / "m.zarr", mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    root.require_group("OME")
    for image in range(11):
        write_zarr_image(root.require_group(str(image)), STACK + image)
    movie = open_movie(tmp_path / "m.zarr", Choice(position="10", channel="1"))
    expect(movie, n=5, interval_s=0.04, pixel_size_um=0.13)
    np.testing.assert_array_equal(np.stack(list(movie)), STACK[:, 1] + 10)
    empty = zarr.open_group(tmp_path / "e.zarr", mode="w", zarr_format=2)
    empty.require_group("a")
    with pytest.raises(InputError, match="without 'multiscales' or 'plate'"):
        open_movie(tmp_path / "e.zarr")


def write_czi(path: Path, *, n_scenes: int = 1) -> None:
    """Write STACK as Zeiss's package does."""
    czi = pytest.importorskip("pylibCZIrw.czi")
    with czi.create_czi(str(path)) as document:
        for scene, t, c in np.ndindex(n_scenes, 5, 2):
            document.write(
                (STACK[t, c] + scene)[..., None],
                plane={"T": t, "C": c},
                scene=scene,
                location=(100 * scene, 0),
            )
        document.write_metadata(
            "test", channel_names={0: "DAPI", 1: "GFP"}, scale_x=1.2e-7, scale_y=1.2e-7
        )


def test_czi_of_zeiss(tmp_path: Path) -> None:
    write_czi(tmp_path / "a.czi")
    movie = open_movie(tmp_path / "a.czi", Choice(channel="GFP"))
    # what Zeiss's package writes has no time axis: it stays unknown
    expect(movie, n=5, interval_s=math.nan, pixel_size_um=0.12)
    np.testing.assert_array_equal(np.stack(list(movie)), STACK[:, 1])
    timed = open_movie(tmp_path / "a.czi", Choice(fps=10.0))
    assert (len(timed), timed.channels) == (10, ["DAPI", "GFP"])
    movie.close()
    timed.close()


def test_scenes_of_a_czi_are_positions(tmp_path: Path) -> None:
    write_czi(tmp_path / "a.czi", n_scenes=2)
    movie = open_movie(tmp_path / "a.czi", Choice(position="1", channel="DAPI"))
    expect(movie, n=5, interval_s=math.nan, pixel_size_um=0.12)
    np.testing.assert_array_equal(np.stack(list(movie)), STACK[:, 0] + 1)
    movie.close()


def test_time_between_czi_frames_is_read_where_zen_wrote_it() -> None:
    from lodestar_live.recording.read_czi import interval_of

    positions = {"Interval": {"Start": "0", "Increment": "0.25"}}
    assert interval_of({"Dimensions": {"T": {"Positions": positions}}}) == 0.25
    assert math.isnan(interval_of({}))


def test_formats_that_are_not_read_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.nd2").write_bytes(b"\0")
    with pytest.raises(InputError, match=r"nd2 is not read; save it as OME-TIFF"):
        open_movie(tmp_path / "a.nd2")


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_recordings_larger_than_memory_are_not_loaded(
    tmp_path: Path, suffix: str
) -> None:
    """4 GiB that lie on the disk as a hole: only what is looked at takes memory."""
    psutil = pytest.importorskip("psutil")
    path, shape = tmp_path / f"large{suffix}", (8192, 512, 512)
    if suffix == ".npy":
        stack = np.lib.format.open_memmap(path, "w+", np.uint16, shape)
    else:
        stack = tifffile.memmap(path, shape=shape, dtype=np.uint16, bigtiff=True)
    stack[5000] = 7
    del stack
    before = psutil.Process().memory_info().rss
    movie = open_movie(path)
    assert len(movie) == 8192
    assert (movie[5000] == 7).all()
    assert psutil.Process().memory_info().rss - before < 100 * 2**20
    movie.close()
