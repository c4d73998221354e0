from __future__ import annotations

import imageio.v3 as imageio
import numpy as np
import pytest
import tifffile

from lodestar_live.errors import InputError
from lodestar_live.recording.movies import open_movie, read_image

STACK = np.arange(3 * 5 * 7, dtype=np.uint16).reshape(3, 5, 7)


def test_tiff_stack_gives_its_frames(tmp_path) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, STACK, photometric="minisblack")
    movie = open_movie(path)
    assert len(movie) == 3
    assert np.array_equal(np.stack(list(movie)), STACK)


def test_compressed_tiff_stack_gives_its_frames(tmp_path) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, STACK, photometric="minisblack", compression="zlib")
    assert np.array_equal(np.stack(list(open_movie(path))), STACK)


def test_numpy_stack_gives_its_frames(tmp_path) -> None:
    path = tmp_path / "stack.npy"
    np.save(path, STACK)
    assert np.array_equal(open_movie(path)[2], STACK[2])


def test_folder_of_images_is_read_in_order(tmp_path) -> None:
    for k in (2, 0, 1):
        imageio.imwrite(tmp_path / f"frame_{k}.png", STACK[k].astype(np.uint8))
    frames = np.stack(list(open_movie(tmp_path)))
    assert np.array_equal(frames, STACK.astype(np.uint8))


def test_grey_image_saved_as_colour_is_accepted(tmp_path) -> None:
    grey = STACK[0].astype(np.uint8)
    imageio.imwrite(tmp_path / "grey.png", np.repeat(grey[..., None], 3, axis=-1))
    assert np.array_equal(read_image(tmp_path / "grey.png"), grey)


def test_real_recordings_open(real_data) -> None:
    assert open_movie(real_data / "bacteria/bacteria_000-213.tif")[0].ndim == 2
    assert len(open_movie(real_data / "plankton/prey_sequence.npy")) == 500


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "absent.tif", "no such file"),
        (lambda p: p, "no images in this folder"),
        (lambda p: _write(p / "bad.tif", b"not a tiff"), "cannot be read"),
        (lambda p: _colour(p / "colour.png"), "a colour image"),
        (lambda p: _array(p / "flat.npy", np.zeros(4)), r"shape \(4,\)"),
        (lambda p: _array(p / "empty.npy", np.zeros((0, 4, 4))), "shape"),
        (lambda p: _array(p / "text.npy", np.array([["a"]])), "expected numbers"),
    ],
)
def test_unusable_input_is_named(tmp_path, make, message) -> None:
    with pytest.raises(InputError, match=message):
        open_movie(make(tmp_path))


def _write(path, data):
    path.write_bytes(data)
    return path


def _colour(path):
    rng = np.random.default_rng(0)
    imageio.imwrite(path, rng.integers(0, 255, (9, 9, 3), dtype=np.uint8))
    return path


def _array(path, array):
    np.save(path, array)
    return path
