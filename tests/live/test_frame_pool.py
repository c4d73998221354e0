from __future__ import annotations

import numpy as np
import pytest

from lodestar_live.live.frame_pool import FramePool


def test_a_held_copy_never_changes() -> None:
    pool, held = FramePool(), []
    for k in range(40):
        held.append(pool.keep(np.full((9, 7), k, np.uint16)))
        if k % 3 == 0:
            del held[: len(held) // 2]
        view = [int(frame[0, 0]) for frame in held]
        assert view == list(range(k + 1 - len(held), k + 1))


def test_a_view_alone_keeps_its_copy() -> None:
    pool = FramePool()
    views = [pool.keep(np.full((8, 8), k, np.uint8))[2:4] for k in range(20)]
    assert [int(view[0, 0]) for view in views] == list(range(20))


def test_memory_is_used_again_once_let_go() -> None:
    pool, places = FramePool(), set()
    for k in range(50):
        places.add(pool.keep(np.full((64, 64), k, np.uint16)).ctypes.data)
    assert len(places) == 1


@pytest.mark.parametrize(
    "image",
    [
        np.arange(20.0).reshape(4, 5)[:, ::2],
        np.asfortranarray(np.arange(12).reshape(3, 4)),
        np.zeros((0, 3)),
        np.ones((2, 3), complex),
        [[1, 2], [3, 4]],
    ],
)
def test_odd_images_are_copied_as_they_are(image) -> None:
    copy = FramePool().keep(image)
    assert np.array_equal(copy, image)
    assert copy is not image


def test_nothing_is_copied_where_nobody_can_change_the_image() -> None:
    image = np.arange(12, dtype=np.uint16).reshape(3, 4)
    assert FramePool(is_last_reader=True).keep(image) is image
    assert FramePool().keep(image) is not image
    received = np.frombuffer(image.tobytes(), np.uint16).reshape(3, 4)
    assert FramePool().keep(received) is received


def test_a_view_of_a_buffer_of_others_is_copied_even_for_the_last_reader() -> None:
    ring = bytearray(24)
    image = np.frombuffer(ring, np.uint16).reshape(3, 4)
    kept = FramePool(is_last_reader=True).keep(image)
    ring[0] = 7
    assert kept[0, 0] == 0


def test_a_copy_made_aside_is_as_good() -> None:
    pool, held = FramePool(can_wait=True), []
    for k in range(6):
        held.append(pool.keep(np.full((5, 6), k, np.uint16)))
    assert [int(frame[4, 5]) for frame in held] == list(range(6))
