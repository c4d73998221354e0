from __future__ import annotations

import time
import weakref

import numpy as np
import pytest

from lodestar_live.data import Detections
from lodestar_live.detection import Detector
from lodestar_live.errors import InputError
from lodestar_live.live.retrain import Retrainer, compare, judge
from lodestar_live.settings import parse_settings
from tests.simulation.fields import Scene, simulate_field

TRUE = np.array([[20.0, 20.0], [50.0, 60.0], [80.0, 30.0]])


def steady(pixels, sigma=0.1):
    return Detections.from_positions(TRUE, sigma_px=sigma)


def precise(pixels):
    return steady(pixels, sigma=0.05)


def blind(pixels):
    return Detections.empty()


class Flickering:
    """Sees the true particles and as many false alarms that never stay."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __call__(self, pixels):
        false = self.rng.uniform(200, 2000, TRUE.shape)
        return Detections.from_positions(np.vstack([TRUE, false]), sigma_px=0.01)


FRAMES = [np.zeros((100, 100), "u1")] * 6


def test_worth_counts_what_stays_against_what_flickers():
    worth = judge(Flickering(), FRAMES, gate_px=5)
    assert worth.n_kept == 3
    assert worth.n_lost == 3
    assert judge(steady, FRAMES, gate_px=5).total == 3


@pytest.mark.parametrize(
    ("old", "new", "is_better"),
    [
        (blind, steady, True),
        (steady, blind, False),
        (steady, precise, True),
        (precise, steady, False),
        (steady, Flickering(), False),
        (Flickering(), steady, True),
        (blind, blind, False),
        (steady, steady, False),
    ],
)
def test_new_model_must_beat_the_old_one(old, new, is_better):
    assert compare(old, new, FRAMES).is_better == is_better


class Slot:
    """What a run does: uses the detector it was last given."""

    def __init__(self, detect):
        self.detect, self.version, self.events = detect, 0, []

    def swap(self, detect, version):
        self.detect, self.version = detect, version


def make(tmp_path, slot, **training):
    settings = parse_settings({"training": {"steps": 150, **training}})
    return Retrainer(
        settings,
        tmp_path,
        detect=slot.detect,
        swap=slot.swap,
        tell=slot.events.append,
        clock=time.monotonic,
    )


@pytest.fixture(scope="module")
def movie():
    scene = Scene(n_particles=8, size_px=(180, 180), spacing_px=50)
    return [simulate_field(scene, seed=3).pixels.astype("f4")] * 3


def test_retrained_model_replaces_a_blind_one_and_is_rolled_back(tmp_path, movie):
    slot = Slot(blind)
    with_frames = make(tmp_path, slot)
    for pixels in movie:
        with_frames.remember(pixels)
    with_frames.retrain()
    with pytest.raises(InputError, match="under way"):
        with_frames.retrain()
    assert slot.version == 0  # tracking goes on with the old model meanwhile
    with_frames.join(120)
    assert [e.kind for e in slot.events] == ["retrain.started", "retrain.swapped"]
    assert slot.version == with_frames.version == 1
    assert isinstance(slot.detect, Detector)
    assert len(slot.detect(movie[0])) >= 6
    assert with_frames.rollback() == 0
    assert slot.detect is blind
    with pytest.raises(InputError, match="nothing to undo"):
        with_frames.rollback()


def test_failed_training_is_told_and_changes_nothing(tmp_path, movie):
    slot = Slot(steady)
    retrainer = make(tmp_path, slot)
    for _ in range(2):
        retrainer.remember(np.full((200, 200), 7, "u1"))
    retrainer.retrain()
    retrainer.join(120)
    assert slot.events[-1].kind == "retrain.failed"
    assert "no particle" in slot.events[-1].details["why"]
    assert slot.version == 0
    assert not retrainer.is_training


def test_retraining_needs_frames_to_judge_on(tmp_path):
    with pytest.raises(InputError, match="expected at least 2"):
        make(tmp_path, Slot(steady)).retrain()


def test_closing_ends_a_training(tmp_path, movie):
    slot = Slot(steady)
    retrainer = make(tmp_path, slot, steps=100000)
    for pixels in movie:
        retrainer.remember(pixels)
    retrainer.retrain((90.0, 90.0), 48)
    retrainer.close()
    assert [e.kind for e in slot.events] == ["retrain.started"]
    assert not retrainer.is_training


def test_the_engines_own_arrays_are_let_go(tmp_path):
    """Kept, they would cost it fresh memory for every frame."""
    retrainer = make(tmp_path, Slot(steady))
    pixels = np.zeros((16, 16), "u2")
    held = weakref.ref(pixels)
    retrainer.remember(pixels, 3)
    del pixels
    assert held() is None
