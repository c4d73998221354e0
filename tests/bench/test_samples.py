from __future__ import annotations

import numpy as np
import pytest
import tifffile

from tests.bench import company, samples


def test_absent_samples_are_said(tmp_path) -> None:
    report = samples.run(data=tmp_path / "nowhere")
    assert "nothing was measured" in report.notes[0]


def test_marks_are_counted_within_the_border_and_once(tmp_path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((100, 100), np.uint8))
    truth = "y_px,x_px\n50,50\n60,20\n2,2\n"
    (tmp_path / "x_truth.csv").write_text(truth)
    sample = samples.Sample("x", gate_px=4, border_px=10)
    found = np.array([[50, 53.0], [51, 50], [3, 3], [80, 80]])
    tpr, fdr, rmse = samples.score(tmp_path, sample, found)
    assert (tpr, fdr) == (0.5, 2 / 3)
    assert rmse == pytest.approx(1.0)
    assert samples.score(tmp_path, sample, np.empty((0, 2))) == [0, 0, 0]


def test_the_typical_one_is_alone_and_of_usual_size() -> None:
    places = [(50, 50, 10), (55, 50, 10), (100, 150, 10), (150, 60, 30), (5, 5, 10)]
    assert samples.typical(np.array(places, float), (200, 200)) == (100, 150)


@pytest.mark.parametrize(
    ("frame", "n"),
    [
        (company.beads(np.random.default_rng(0), apart_px=8), 128),
        (company.rosettes(np.random.default_rng(0), diameters=1.1), 252),
        (company.spots(np.random.default_rng(0), waves=0.35), 64),
        (company.in_haze(np.random.default_rng(0), haze=2), 64),
    ],
)
def test_particles_lie_where_the_renderer_says(frame, n) -> None:
    assert len(frame.places_px) == n
    y, x = np.round(frame.places_px).astype(int).T
    inside = (y > 3) & (x > 3) & (y < 508) & (x < 508)
    y, x = y[inside], x[inside]
    around = np.pad(frame.image, 8, mode="reflect")
    rings = [
        around[y + 8 + a, x + 8 + b] for a, b in ((8, 0), (-8, 0), (0, 8), (0, -8))
    ]
    assert np.median(frame.image[y, x] - np.mean(rings, axis=0)) > 0.4
    assert company.judged(frame.places_px, frame) == [1, 0, 0]
