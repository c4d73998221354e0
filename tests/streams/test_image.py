"""The live camera image: what viewers get, and what it costs those who do not ask."""

from __future__ import annotations

import imageio.v3 as iio
import numpy as np

from lodestar_live.data import Frame
from lodestar_live.streams import Publisher
from lodestar_live.streams.image import encode_image, shrink
from tests.streams.samples import make_update, publisher, receive, subscriber

__all__ = ["publisher"]


def test_shrunken_image_is_the_mean_of_blocks() -> None:
    pixels = np.arange(1024 * 600, dtype=np.uint16).reshape(600, 1024) % 977
    expected = pixels.reshape(300, 2, 512, 2).mean((1, 3))
    np.testing.assert_allclose(shrink(pixels), expected, rtol=1e-6)


def test_small_image_keeps_its_pixels() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(shrink(pixels), pixels)


def test_field_is_shown_as_intensity_and_nan_as_zero() -> None:
    field = np.array([[3 + 4j, np.nan]], np.complex64)
    np.testing.assert_allclose(shrink(field), [[25.0, 0.0]])


def test_picture_spans_the_contrast_and_its_header_maps_back() -> None:
    yy, xx = np.mgrid[:700, :900]
    pixels = (1000 + 3000 * np.exp(-((yy - 350) ** 2 + (xx - 450) ** 2) / 2e4)).astype(
        np.uint16
    )
    header, jpeg = encode_image(pixels)
    picture = iio.imread(jpeg).astype(float)
    assert header["shape_px"] == [700, 900]
    assert header["scale"] == 2
    assert picture.shape == (350, 450)
    counts = header["low"] + picture / 255 * (header["high"] - header["low"])
    # JPEG at quality 85 of a smooth image: a few grey levels of 3000/255 counts
    assert np.abs(counts - shrink(pixels)).max() < 0.02 * 3000


def test_constant_image_does_not_divide_by_zero() -> None:
    _, jpeg = encode_image(np.full((20, 30), 7, np.uint16))
    assert iio.imread(jpeg).max() == 0


def test_image_comes_only_to_those_who_subscribed(publisher: Publisher) -> None:
    with subscriber(publisher, "tracks") as reader:
        publisher.write(make_update(0))
        receive(reader, "tracks")
    assert publisher.n_images == 0
    with subscriber(publisher, "image") as reader:
        publisher.write(make_update(1, side=64))
        message = receive(reader, "image")
    assert message.image is not None
    assert iio.imread(message.image).shape == (64, 64)
    assert (message.frame, message.header["encoding"]) == (1, "jpeg")


def test_images_are_the_newest_and_at_most_25_a_second(
    publisher: Publisher,
) -> None:
    seen = []
    with subscriber(publisher, "image") as reader:
        for index in range(300):
            publisher.write(make_update(index, side=64))
            while (message := reader.receive(timeout_s=0.001)) is not None:
                if message.topic == "image":
                    seen.append(message)
        while not seen or seen[-1].frame != 299:  # the newest always arrives
            seen.append(receive(reader, "image"))
    span_s = seen[-1].header["t_publish_s"] - seen[0].header["t_publish_s"]
    assert len(seen) - 1 <= span_s / 0.04 + 2  # jitter of the first and last


def test_frame_without_picture_is_only_logged(publisher: Publisher, caplog) -> None:
    update = make_update(0)
    broken = Frame(0, np.zeros((0, 0)))
    with subscriber(publisher, "image") as reader:
        object.__setattr__(update, "frame", broken)
        publisher.write(update)
        publisher.write(make_update(1))
        assert receive(reader, "image").frame == 1
