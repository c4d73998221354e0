"""Choosing the training particle on the page, as a user does it."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from lodestar_live.data import Detections
from lodestar_live.errors import InputError, ModelError
from lodestar_live.view import pick_crop
from lodestar_live.view.web.pick import PickFeed
from tests.view.made_runs import brownian_run, picture


@pytest.fixture
def snapshot():
    run, truth = brownian_run(n_tracks=8, n_frames=2)
    return picture(run, truth), truth[truth["frame"] == 0]


class Pick:
    """`pick_crop` on a thread of its own, as the command line would call it."""

    def __init__(self, image, **options):
        self.result, self.url = None, None
        self._is_open = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(image, options))
        self._thread.start()
        assert self._is_open.wait(10)

    def _run(self, image, options):
        try:
            self.result = pick_crop(
                image, open_browser=False, announce=self._announce, **options
            )
        except InputError as error:
            self.result = error

    def _announce(self, url):
        self.url = url
        self._is_open.set()

    def join(self):
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self.result


def screen_at(page, y_px, x_px):
    return page.evaluate(
        """([y, x]) => { const s = lodestar.scene;
        const box = s.overlay.getBoundingClientRect();
        const [sx, sy] = s.toScreen(y, x); return [sx + box.left, sy + box.top]; }""",
        [float(y_px), float(x_px)],
    )


def test_click_then_drag_chooses_particle_and_size(snapshot, open_page, until):
    image, truth = snapshot
    pick = Pick(image)
    page = open_page(pick.url)
    until(page, "lodestar.scene.image.width > 1")
    y, x = truth["y_px"][2], truth["x_px"][2]
    page.mouse.click(*screen_at(page, y, x))
    assert not page.is_visible("#try")
    zoom = page.evaluate("lodestar.scene.view.zoom")
    sx, sy = screen_at(page, y, x)
    page.mouse.move(sx, sy)
    page.mouse.down()
    page.mouse.move(sx + 15 * zoom, sy + 4, steps=4)
    page.mouse.up()
    page.click("#use")
    (at,), size_px = pick.join()
    until(page, "document.querySelector('#state').innerText.startsWith('chosen')")
    # a mouse hits to half a screen pixel
    np.testing.assert_allclose(at, (y, x), atol=1 / zoom)
    assert size_px == pytest.approx(30, abs=2)


def test_shift_click_adds_particles_and_a_click_starts_again(
    snapshot, open_page, until
):
    image, truth = snapshot
    pick = Pick(image)
    page = open_page(pick.url)
    until(page, "lodestar.scene.image.width > 1")
    places = np.column_stack([truth["y_px"], truth["x_px"]])
    page.mouse.click(*screen_at(page, *places[0]))
    page.mouse.click(*screen_at(page, *places[3]))
    page.keyboard.down("Shift")
    page.mouse.click(*screen_at(page, *places[1]))
    page.mouse.click(*screen_at(page, *places[2]))
    page.keyboard.up("Shift")
    assert "the last of 3" in page.inner_text("#at")
    zoom = page.evaluate("lodestar.scene.view.zoom")
    page.click("#use")
    at, _ = pick.join()
    # a mouse hits to half a screen pixel
    np.testing.assert_allclose(at, places[[3, 1, 2]], atol=1 / zoom)


def test_a_click_alone_leaves_the_size_to_be_estimated(snapshot, open_page, until):
    image, truth = snapshot
    pick = Pick(image)
    page = open_page(pick.url)
    until(page, "lodestar.scene.image.width > 1")
    page.mouse.click(*screen_at(page, truth["y_px"][0], truth["x_px"][0]))
    page.keyboard.press("Enter")
    _, size_px = pick.join()
    assert size_px is None


def test_try_out_shows_progress_and_what_is_found(snapshot, open_page, until):
    image, truth = snapshot
    asked, go_on = [], threading.Event()

    def try_out(at_px, size_px, tell):
        asked.append((at_px, size_px))
        tell(0.5, "step 50 of 100")
        assert go_on.wait(10)
        if len(asked) == 2:
            raise ModelError("the crop holds no particle.")
        return Detections.from_positions(
            np.column_stack([truth["y_px"], truth["x_px"]])
        )

    pick = Pick(image, try_out=try_out)
    page = open_page(pick.url)
    until(page, "lodestar.scene.image.width > 1")
    page.mouse.click(*screen_at(page, truth["y_px"][1], truth["x_px"][1]))
    page.click("#try")
    until(page, "document.querySelector('#reply').innerText == 'step 50 of 100'")
    assert page.is_disabled("#use")
    go_on.set()
    until(page, "document.querySelector('#reply').innerText == 'finds 8 particles'")
    assert page.evaluate("lodestar.scene.detections.y_px.length") == 8
    page.click("#try")
    until(page, "document.querySelector('#reply').innerText.includes('no particle')")
    page.click("#use")
    pick.join()
    assert len(asked) == 2


def test_cancel_is_an_error_that_names_the_other_way(snapshot, open_page, until):
    pick = Pick(snapshot[0])
    page = open_page(pick.url)
    until(page, "lodestar.scene.image.width > 1")
    page.click("#cancel")
    assert "--at" in str(pick.join())


def test_by_keyboard_alone(snapshot, open_page, until):
    pick = Pick(snapshot[0])
    page = open_page(pick.url)
    until(page, "lodestar.scene.image.width > 1")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("]")
    page.keyboard.press("Enter")
    assert pick.join() == (((256.0, 266.0),), 42)


@pytest.mark.parametrize(
    ("verb", "args"),
    [
        ("use", {"places": [{"y_px": -1, "x_px": 5}]}),
        ("use", {"places": [{"y_px": 5, "x_px": 5}, {"y_px": 5, "x_px": 512}]}),
        ("use", {"places": [{"y_px": float("nan"), "x_px": 5}]}),
        ("use", {"places": [{"y_px": 5}]}),
        ("use", {"places": []}),
        ("use", {"places": [{"y_px": 5, "x_px": 5}], "size_px": 100_000}),
        ("try", {"places": [{"y_px": 5, "x_px": 5}]}),
        ("rm", {}),
    ],
)
def test_impossible_choices_are_refused(snapshot, verb, args):
    from lodestar_live.errors import StreamError

    with pytest.raises(StreamError):
        PickFeed(snapshot[0]).command(verb, args)
