"""The overlay page, in a real browser, fed by a real publisher."""

from __future__ import annotations

import time

import numpy as np
import pytest

from lodestar_live.view.web.live_feed import LiveFeed
from lodestar_live.view.web.recorded_feed import RecordedFeed
from lodestar_live.view.web.server import ViewServer
from tests.view.live_source import LiveSource
from tests.view.made_runs import brownian_run, picture


@pytest.fixture
def live():
    """A tracker with 60 particles that takes commands, and its page's server."""
    with LiveSource(n_tracks=60, control=True) as source:
        server = ViewServer(LiveFeed(source.stream))
        yield source, server
        server.close()


def screen_of(page, track_id):
    """Return where a track lies on the screen."""
    return page.evaluate(
        """(id) => { const s = lodestar.scene; const i = s.rowOf(id);
        const box = s.overlay.getBoundingClientRect();
        const [x, y] = s.toScreen(s.tracks.y_px[i], s.tracks.x_px[i]);
        return [x + box.left, y + box.top]; }""",
        track_id,
    )


def brightness_at(page, y_px, x_px):
    """Return the grey value of the camera image at a frame position."""
    return page.evaluate(
        """([y, x]) => { const s = lodestar.scene; const k = s.imageScale;
        const at = (v) => Math.round((v + 0.5) * k - 0.5);
        return s.image.getContext("2d").getImageData(at(x), at(y), 1, 1).data[0]; }""",
        [y_px, x_px],
    )


def test_page_shows_frames_tracks_and_numbers(live, open_page, until):
    _, server = live
    page = open_page(server.url)
    until(page, "lodestar.nUpdates > 10")
    assert page.inner_text("#state") == "live"
    assert page.evaluate("lodestar.scene.tracks.track_id.length") == 60
    assert "swarm" in page.inner_text("#source")
    assert "received" in page.inner_text("#counters")
    assert not page.is_visible("#empty")
    until(page, "lodestar.charts.rows.t.length >= 2")
    until(page, "document.querySelectorAll('#events li').length > 0")


SLOW_DECODING = """
const decode = ImageDecoder.prototype.decode;
ImageDecoder.prototype.decode = async function (...args) {
  const picture = await decode.apply(this, args);
  await new Promise((resolve) => setTimeout(resolve, 300));
  return picture;
};
"""


@pytest.mark.parametrize("script", ["", SLOW_DECODING], ids=["quick", "slow"])
def test_circles_lie_on_the_particles_of_the_image_shown(
    live, open_page, until, script
):
    _, server = live
    page = open_page(server.url, script=script)
    until(page, "lodestar.nUpdates > 5")
    page.click("#pause")
    page.wait_for_timeout(400)  # what is being decoded may not come after the pause
    assert page.evaluate("lodestar.imageFrame == lodestar.frame")
    at = page.evaluate(
        """() => { const { y_px, x_px } = lodestar.scene.tracks;
        return [...y_px].map((y, i) => [y, x_px[i]]); }"""
    )
    greys = [brightness_at(page, y, x) for y, x in at]
    # particles are far above the background: an image of another frame would miss
    assert np.mean(np.array(greys) > 150) > 0.95


def test_tracks_go_on_over_a_pale_image_when_no_new_one_comes(open_page, until):
    class Feed(LiveFeed):
        has_images = True

        def take(self, message):
            if self.has_images or message.topic != "image":
                super().take(message)

    is_pale = "lodestar.scene.image.classList.contains('dim')"
    with LiveSource(n_tracks=20) as source:
        feed = Feed(source.stream)
        server = ViewServer(feed)
        page = open_page(server.url)
        until(page, f"lodestar.nUpdates > 3 && !{is_pale}")
        feed.has_images = False
        until(page, is_pale)
        n = page.evaluate("lodestar.nUpdates")
        until(page, f"lodestar.nUpdates > {n + 10}")
        assert page.evaluate("lodestar.imageFrame < lodestar.frame")
        feed.has_images = True
        until(page, f"!{is_pale}")
        server.close()


def test_a_line_shows_which_way_a_particle_points(open_page, until):
    class Rods(LiveSource):
        angle_deg = 90.0  # down

    drawn = """([dy, dx]) => { const s = lodestar.scene; const r = 6;
        const [sx, sy] = s.toScreen(s.tracks.y_px[0], s.tracks.x_px[0]);
        const at = [sx + r * dx, sy + r * dy].map((v) => Math.round(v * s.ratio));
        const context = s.overlay.getContext("2d");
        const part = context.getImageData(at[0] - 1, at[1] - 1, 3, 3);
        return Math.max(...part.data.filter((_, i) => i % 4 == 3)); }"""
    with Rods(n_tracks=4) as source:
        server = ViewServer(LiveFeed(source.stream))
        page = open_page(server.url)
        until(page, "lodestar.nUpdates > 3")
        page.evaluate(
            "Object.assign(lodestar.scene.show, { tails: 0, ids: 0, detections: 0 })"
        )
        until(page, f"lodestar.nUpdates > {page.evaluate('lodestar.nUpdates')} + 2")
        page.keyboard.press("Space")
        page.wait_for_timeout(200)
        along, across = (page.evaluate(drawn, [*d]) for d in ((0.5, 0), (0, 0.5)))
        assert along > 100 > across
        sx, sy = page.evaluate(
            "(() => { const s = lodestar.scene; const b = s.overlay"
            ".getBoundingClientRect(); const [x, y] = s.toScreen(s.tracks.y_px[0], "
            "s.tracks.x_px[0]); return [x + b.left, y + b.top]; })()"
        )
        page.mouse.click(sx, sy)
        assert "90.0° ± 0.5" in page.inner_text("#numbers")
        server.close()


def test_pause_holds_the_picture_and_resume_goes_on(live, open_page, until):
    _, server = live
    page = open_page(server.url)
    until(page, "lodestar.nUpdates > 3")
    page.keyboard.press("Space")
    frame = page.evaluate("lodestar.frame")
    n = page.evaluate("lodestar.nUpdates")
    until(page, f"lodestar.nUpdates > {n + 5}")
    assert page.evaluate("lodestar.frame") == frame
    assert page.inner_text("#state") == "paused"
    page.keyboard.press("Space")
    until(page, f"lodestar.frame > {frame}")


def test_click_selects_and_enter_follows_it(live, open_page, until):
    source, server = live
    page = open_page(server.url)
    until(page, "lodestar.nUpdates > 3")
    page.click("#pause")
    page.mouse.click(*screen_of(page, 7))
    assert "#7" in page.inner_text("#numbers")
    page.keyboard.press("Enter")
    until(page, "document.getElementById('reply').textContent == 'follow: done'")
    assert source.commands == [("follow", {"track_id": 7})]
    page.click("#retrain")
    until(page, "document.getElementById('reply').textContent.startsWith('training')")
    assert source.commands[-1] == ("retrain", {"track_id": 7})


def test_the_chosen_track_shows_its_diffusion_and_law_of_motion(live, open_page, until):
    """Track 7: 7 px² per frame, pixels of 0.1 µm, 0.02 s between frames."""
    _, server = live
    page = open_page(server.url)
    until(page, "lodestar.nUpdates > 3 && lodestar.scene.motions")
    page.click("#pause")
    page.mouse.click(*screen_of(page, 7))
    numbers = page.inner_text("#numbers")
    assert "3.50 ± 0.3 µm²/s" in numbers or "3.50 ± 0.2 µm²/s" in numbers
    assert "1.10 ± 0.20" in numbers
    assert "brownian (97 %)" in numbers


def test_a_place_without_a_track_can_be_learnt(live, open_page, until):
    source, server = live
    page = open_page(server.url)
    until(page, "lodestar.nUpdates > 3")
    page.click("#pause")
    place = page.evaluate(
        """() => { const s = lodestar.scene; const { left, top } = s.overlay
        .getBoundingClientRect();
        for (let sx = 60; sx < s.width; sx += 9)
        for (let sy = 60; sy < s.height; sy += 9) {
          const [y, x] = s.toFrame(sx, sy);
          if (s.find(sx, sy) < 0 && y > 9 && x > 9 && y < 500 && x < 500)
            return [sx + left, sy + top, y, x];
        } }"""
    )
    page.mouse.click(*place[:2])
    page.keyboard.press("t")
    until(page, "document.getElementById('reply').textContent.startsWith('training')")
    verb, args = source.commands[-1]
    assert verb == "retrain"
    np.testing.assert_allclose([args["y_px"], args["x_px"]], place[2:], atol=1)
    # What was clicked is in the image, which may be a frame ahead of the tracks.
    newest = page.evaluate("Math.max(lodestar.frame, lodestar.imageFrame)")
    assert args["frame"] == newest


def test_stop_works_by_button_and_by_key(live, open_page, until):
    source, server = live
    page = open_page(server.url)
    until(page, "!document.getElementById('stop').disabled")
    page.click("#stop")
    until(page, "document.getElementById('reply').textContent == 'stop: done'")
    page.keyboard.press("s")
    page.wait_for_timeout(50)
    deadline_s = time.monotonic() + 5
    while len(source.commands) < 2 and time.monotonic() < deadline_s:
        page.wait_for_timeout(20)
    assert [verb for verb, _ in source.commands] == ["stop", "stop"]


def test_hover_shows_the_numbers_of_the_track_under_the_pointer(live, open_page, until):
    _, server = live
    page = open_page(server.url)
    until(page, "lodestar.nUpdates > 3")
    page.click("#pause")
    page.mouse.move(*screen_of(page, 11))
    tip = page.inner_text("#tooltip")
    assert "#11" in tip and "sigma" in tip and "µm" in tip


def test_zoom_and_pan_keep_the_point_under_the_pointer(live, open_page, until):
    _, server = live
    page = open_page(server.url)
    until(page, "lodestar.nUpdates > 3")
    page.mouse.move(400, 300)
    box = page.evaluate("lodestar.scene.overlay.getBoundingClientRect().top")
    before = page.evaluate(f"lodestar.scene.toFrame(400, {300 - box})")
    page.mouse.wheel(0, -600)
    until(page, "!lodestar.scene.view.isFitted")
    after = page.evaluate(f"lodestar.scene.toFrame(400, {300 - box})")
    np.testing.assert_allclose(after, before, atol=0.6)  # px; wheel events are rounded
    zoom = page.evaluate("lodestar.scene.view.zoom")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("lodestar.scene.view.zoom") == zoom
    page.keyboard.press("0")
    assert page.evaluate("lodestar.scene.view.isFitted")


def test_everything_is_reached_by_keyboard_alone(live, open_page, until):
    source, server = live
    page = open_page(server.url)
    until(page, "lodestar.nUpdates > 3 && !document.getElementById('stop').disabled")
    page.keyboard.press("]")
    assert "#1" in page.inner_text("#numbers")
    page.keyboard.press("]")
    assert "#2" in page.inner_text("#numbers")
    page.keyboard.press("Enter")
    until(page, "document.getElementById('reply').textContent == 'follow: done'")
    assert source.commands[-1] == ("follow", {"track_id": 2})
    page.keyboard.press("i")
    assert not page.is_checked("#show-ids")
    page.keyboard.press("z")
    assert page.input_value("#colour") == "z"
    until(page, "!document.getElementById('colour-bar').hidden")
    page.keyboard.press("?")
    assert page.is_visible("#help")


def test_a_run_without_commands_offers_none(open_page, until):
    with LiveSource(n_tracks=5) as source:
        server = ViewServer(LiveFeed(source.stream))
        page = open_page(server.url)
        until(page, "lodestar.nUpdates > 3")
        assert page.is_disabled("#stop")
        assert "streams.control" in page.get_attribute("#stop", "title")
        server.close()


def test_empty_state_then_a_run_appears_by_itself(open_page, until):
    with LiveSource(n_tracks=5) as source:
        port = int(source.stream.rsplit(":", 1)[1])
    server = ViewServer(LiveFeed(f"tcp://127.0.0.1:{port}"))
    page = open_page(server.url)
    until(page, "document.querySelector('#state').innerText == 'waiting for a run'")
    assert page.is_visible("#empty")
    with LiveSource(n_tracks=5, port=port):
        until(page, "lodestar.nUpdates > 3")
        assert not page.is_visible("#empty")
    until(page, "document.querySelector('#state').innerText == 'run ended'")
    with LiveSource(n_tracks=6, port=port):
        until(page, "document.querySelector('#state').innerText == 'live'")
    server.close()


def test_a_silent_tracker_is_called_lost(open_page, until):
    with LiveSource(n_tracks=5) as source:
        feed = LiveFeed(source.stream)
        server = ViewServer(feed)
        page = open_page(server.url)
        until(page, "lodestar.nUpdates > 3")
        feed.close()  # as if the network to the tracker were cut
        until(page, "document.querySelector('#state').innerText.includes('no news')")
        server.close()


def test_page_reconnects_when_its_server_comes_back(open_page, until):
    with LiveSource(n_tracks=5) as source:
        server = ViewServer(LiveFeed(source.stream))
        port = int(server.url.rsplit(":", 1)[1].strip("/"))
        page = open_page(server.url)
        until(page, "lodestar.nUpdates > 3")
        server.close()
        until(page, "document.querySelector('#state').innerText.includes('retrying')")
        n = page.evaluate("lodestar.nUpdates")
        server = ViewServer(LiveFeed(source.stream), port=port)
        until(page, f"lodestar.nUpdates > {n + 3}")
        server.close()


def test_ten_thousand_tracks_are_drawn_and_stay_fresh(open_page, until):
    with LiveSource(n_tracks=10_000, size_px=1024, fps=5) as source:
        server = ViewServer(LiveFeed(source.stream))
        page = open_page(server.url)
        until(page, "lodestar.nUpdates > 5", timeout_s=30)
        assert page.evaluate("lodestar.scene.tracks.track_id.length") == 10_000
        behind = source.n_frames - page.evaluate("lodestar.frame")
        assert behind <= 10  # newest only: two seconds, however slow the drawing
        server.close()


def test_phone_sized_window_shows_picture_and_stop(live, open_page, until):
    _, server = live
    page = open_page(server.url, width=390, height=780, has_touch=True, is_mobile=True)
    until(page, "lodestar.nUpdates > 3")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for name in ("#overlay", "#stop", "#pause"):
        box = page.locator(name).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
        assert box["y"] + box["height"] <= 780
    page.touchscreen.tap(*screen_of(page, 5))


def test_recorded_run_plays_and_scrubs(open_page, until):
    run, truth = brownian_run(n_tracks=12, n_frames=100, follow=True)
    server = ViewServer(
        RecordedFeed(run, source="runs/1", snapshot=picture(run, truth))
    )
    page = open_page(server.url)
    until(page, "lodestar.nUpdates > 0")
    assert page.inner_text("#state") == "recording"
    assert page.is_disabled("#stop")
    page.evaluate("lodestar.player.goTo(60)")
    until(page, "lodestar.frame == 60")
    rows = run.tracks()[run.tracks()["frame"] == 60]
    np.testing.assert_allclose(
        page.evaluate("[...lodestar.scene.tracks.y_px]"), rows["y_px"]
    )
    # tails reach back although the frames before were never shown
    assert page.evaluate("lodestar.scene.tails.byId.get(1).n") == 40
    page.keyboard.press(".")
    until(page, "lodestar.frame == 61")
    page.keyboard.press("Space")
    until(page, "lodestar.frame > 70")
    until(page, "lodestar.frame == 99 && !lodestar.player.isPlaying")
    server.close()
