"""Training end to end: one noisy image in, an exported detector out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lodestar_live.detection import Detector
from lodestar_live.errors import InputError, ModelError
from lodestar_live.lodestar import Model, TrainingStep, train
from lodestar_live.simulation import shapes


@pytest.fixture(scope="module")
def sphere() -> np.ndarray:
    return shapes.sample("sphere", 1, snr=10, seed=50).images[0]


@pytest.fixture(scope="module")
def model(sphere: np.ndarray) -> Model:
    return train(sphere, seed=1, steps=400)


def test_a_short_training_locates_unseen_particles(
    model: Model, tmp_path: Path
) -> None:
    truth = shapes.sample("sphere", 60, snr=10, seed=51)
    detector = Detector(model.export(tmp_path / "sphere.onnx"))
    errors = detector.locate(truth.images) - truth.centres_px
    # 400 steps reach about 1.5 times the bound of 0.044 px; 0.15 px leaves room for
    # other machines' arithmetic, and is far below a pixel's grid error of 0.29 px.
    assert shapes.rmse_px(errors) < 0.15


def test_same_seed_gives_the_same_model(sphere: np.ndarray) -> None:
    first, second = (train(sphere, seed=4, steps=150) for _ in range(2))
    for one, other in zip(first.weights.layers, second.weights.layers, strict=True):
        if hasattr(one, "weight"):
            np.testing.assert_array_equal(one.weight, other.weight)


def test_progress_counts_up_to_the_last_step(sphere: np.ndarray) -> None:
    seen: list[TrainingStep] = []
    train(sphere, steps=150, progress=seen.append)
    assert [s.step for s in seen] == list(range(10, 151, 10))
    assert seen[-1].left_s == 0


def test_gain_and_offset_of_the_crop_do_not_matter(
    sphere: np.ndarray, model: Model
) -> None:
    other = train(50 + 200 * sphere, seed=1, steps=400)
    # The same views up to float32 rounding; training amplifies rounding, so only the
    # result is compared: both must find the same point of the crop.
    assert other.card["centre_px"] == pytest.approx(model.card["centre_px"], abs=0.1)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((64, 64), 7.0), "every pixel is 7"),
        (np.random.default_rng(0).normal(size=(64, 64)), "no learnable particle"),
    ],
)
def test_a_crop_without_particle_is_refused(image: np.ndarray, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        train(image, steps=20)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((64, 64, 3)), "expected 2-D"),
        (np.full((64, 64), np.nan), "NaN"),
        (np.zeros((5, 5)), "crop size 5"),
    ],
)
def test_an_unusable_image_is_refused(image: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(image, steps=20)
