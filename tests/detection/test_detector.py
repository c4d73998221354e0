"""What a user sees of a detector: counts, flags, blanks, odd input."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from skimage.measure import label
from skimage.morphology import h_maxima

from lodestar_live.data import Flag
from lodestar_live.detection import Detector
from lodestar_live.detection.model.nodes import LEVEL, PADDED
from lodestar_live.detection.model.seal import sealed
from lodestar_live.errors import InputError, SettingsError
from tests.detection import networks

SHAPE = (128, 136)
SPOTS = np.array([[20.0, 30.0], [60.25, 44.5], [90.5, 100.75]])
THRESHOLD = -1.5


def noisy(yx: np.ndarray = SPOTS, peak: float = 100.0) -> np.ndarray:
    spots = networks.spots(yx, SHAPE, peak)
    return np.random.default_rng(0).poisson(spots).astype(np.uint16)


@pytest.fixture(scope="module")
def detector() -> Detector:
    model = networks.model(networks.spot_finder(), threshold=THRESHOLD)
    return Detector(model, n_threads=1)


def test_spots_are_found_where_they_are(detector) -> None:
    found = detector(noisy())
    order = np.argsort(found.positions_px[:, 0])
    # A random network with a fitted last layer is good for about 0.3 px.
    np.testing.assert_allclose(found.positions_px[order], SPOTS, atol=1)
    assert (found.rows["flags"] == 0).all()
    assert (found.rows["intensity"] > 40).all()
    assert np.isnan(found.rows["sigma_px"]).all()  # not calibrated


@pytest.mark.parametrize(
    ("positions_px", "reach_px"),
    [
        ([[5.0, np.nan]], 8.0),
        ([[np.nan, 1e9]], [8.0]),
        ([[np.inf, 5.0]], 8.0),
        ([[5.0, 5.0]], -1.0),
        ([[5.0, 5.0]], np.inf),
        ([[5.0, 5.0], [9.0, 9.0]], [8.0, 8.0, 8.0]),
    ],
)
def test_places_that_are_none_are_refused(detector, positions_px, reach_px) -> None:
    with pytest.raises(InputError, match="expected finite numbers"):
        detector.near(noisy(), positions_px, reach_px=reach_px)


def test_places_far_outside_the_frame_hold_nothing(detector) -> None:
    height, width = SHAPE
    y, x = SPOTS[0]
    for far in (
        [y, -1e9],
        [y, width + 30.0],
        [-30.0, x],
        [height + 30.0, x],
    ):
        assert len(detector.near(noisy(), [far])) == 0, far
        assert len(detector.near(noisy(), [far, SPOTS[0]])) == 1
    assert len(detector.near(noisy(), np.empty((0, 2)))) == 0


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("shape", [(96, 96), (256, 320), (301, 223)], ids=str)
def test_nothing_is_found_where_nothing_is(n_threads, shape) -> None:
    model = networks.model(networks.spot_finder(), threshold=50.0)
    detector = Detector(model, n_threads=n_threads, engine="cpu")
    places = np.random.default_rng(0).uniform(0, shape, (30, 2))
    for frame in (np.zeros(shape, np.uint16), np.full(shape, 7.5)):
        assert len(detector(frame)) == 0
        assert len(detector.near(frame, places)) == 0
        assert len(detector.near(frame, places[:1])) == 0


def test_models_written_before_level_and_padding_had_names_find_the_same() -> None:
    model = networks.model(networks.spot_finder(), threshold=THRESHOLD)
    proto = onnx.load_from_string(model)
    old_names = {LEVEL: "max_76", PADDED: "pad_8"}
    for node in proto.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = old_names.get(name, name)
    old = sealed(proto)
    frame = noisy()
    for size in (frame, frame[:-3, :-1]):
        now, then = (Detector(one, n_threads=2) for one in (model, old))
        for find in (Detector.__call__, partial(Detector.near, positions_px=SPOTS)):
            found, expected = (find(one, size).rows for one in (then, now))
            assert len(found) == len(expected) == len(SPOTS)
            for name in ("y_px", "x_px", "score"):
                np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize(
    ("gain", "offset", "dtype"),
    [(1, 0, np.uint8), (1, 0, np.float64), (100, 30000, np.int32), (1e-3, -5, float)],
)
def test_gain_offset_and_type_change_nothing(detector, gain, offset, dtype) -> None:
    image = noisy()
    same = detector((image * gain + offset).astype(dtype))
    np.testing.assert_allclose(
        same.positions_px, detector(image).positions_px, atol=0.02
    )


def test_blank_frames_give_none(detector) -> None:
    rng = np.random.default_rng(1)
    blanks = [
        np.zeros(SHAPE, np.uint8),
        np.full(SHAPE, 65535, np.uint16),
        rng.poisson(20, SHAPE).astype(np.uint16),
        rng.normal(0, 1e-6, SHAPE).astype(np.float32),
        np.full(SHAPE, np.nan),
    ]
    assert [len(detector(blank)) for blank in blanks] == [0] * len(blanks)


def test_pixels_that_are_no_numbers_stay_inside_the_detector(detector) -> None:
    image = noisy().astype(np.float32)
    image[18:20, 28:30] = np.nan
    image[0, 0] = np.inf
    found = detector(image)
    assert np.isfinite(found.positions_px).all()
    assert len(found) == 3
    near_hole = np.hypot(*(found.positions_px - SPOTS[0]).T) < 3
    assert (found.rows["flags"][near_hole] & Flag.BORDER).all()


def test_saturated_particles_are_flagged_in_tiles_of_a_large_frame(detector) -> None:
    frame = np.full((700, 800), 10, np.uint16)
    frame[300:428, 400:536] = noisy()
    places = SPOTS + np.array([300, 400])
    y, x = places[0].round().astype(int)
    frame[y - 1 : y + 2, x - 1 : x + 2] = 255  # an 8-bit camera's largest
    few = detector.near(frame, places).rows
    order = np.argsort(few["y_px"])
    is_flagged = few["flags"][order] & Flag.SATURATED
    assert len(few) == len(SPOTS)
    assert is_flagged.tolist() == [Flag.SATURATED, 0, 0]
    frame[5, 5] = 300  # so 255 was not the camera's largest
    assert not (detector.near(frame, places).rows["flags"] & Flag.SATURATED).any()


def test_saturated_particles_are_flagged(detector) -> None:
    bright = np.minimum(noisy(peak=400), 255).astype(np.uint8)
    assert (detector(bright).rows["flags"] & Flag.SATURATED).all()
    assert not (detector(noisy()).rows["flags"] & Flag.SATURATED).any()


def test_particles_at_the_border_are_flagged_not_dropped(detector) -> None:
    found = detector(noisy(np.array([[4.0, 60.0], [64.0, 68.0]])))
    assert len(found) == 2
    is_at_edge = found.positions_px[:, 0] < 8
    is_flagged = found.rows["flags"] & Flag.BORDER != 0
    np.testing.assert_array_equal(is_flagged, is_at_edge)


def test_several_maxima_of_one_particle_become_one(detector) -> None:
    # Stride 2: a particle has several maxima, all with the same average.
    model = networks.model(networks.spot_finder(2), threshold=THRESHOLD - 2)
    assert len(Detector(model, n_threads=1)(noisy())) == 3


def test_the_best_are_kept_and_the_rest_is_counted() -> None:
    model = networks.model(networks.spot_finder(), threshold=THRESHOLD)
    few = Detector(model, max_detections=2, n_threads=1)
    assert len(few(noisy())) == 2
    assert few.n_cut == 1


def test_detections_unlike_the_training_particle_are_flagged_or_dropped() -> None:
    weights, image = networks.spot_finder(), noisy()
    spread = Detector(networks.model(weights, threshold=THRESHOLD))(image).rows[
        "consistency_px"
    ]
    limit = float(np.median(spread))
    model = networks.first_version(weights, threshold=THRESHOLD, consistency_px=limit)
    flags = Detector(model)(image).rows["flags"]
    assert ((flags & Flag.UNLIKE) != 0).sum() == 1
    assert len(Detector(model, only_like_training=True)(image)) == 2


def test_detections_of_too_low_a_score_are_unlike_the_training_particle() -> None:
    weights, image = networks.spot_finder(), noisy()
    scores = Detector(networks.model(weights, threshold=THRESHOLD))(image).rows["score"]
    limit = float(np.median(scores))
    model = networks.first_version(weights, threshold=THRESHOLD, like_score=limit)
    rows = Detector(model)(image).rows
    assert ((rows["flags"] & Flag.UNLIKE != 0) == (rows["score"] < limit)).all()
    assert (rows["score"] < limit).any()
    # Other exponents make other scores, of which the limit says nothing.
    rows = Detector(model, alpha=0.4)(image).rows
    assert (rows["flags"] & Flag.UNLIKE == 0).all()


def test_what_is_far_fainter_than_the_rest_is_background_texture() -> None:
    model = networks.model(networks.spot_finder(), threshold=THRESHOLD)
    image = noisy(peak=200.0)
    everything = Detector(model, least_contrast=0.0)(image)
    median = np.median(np.abs(everything.rows["intensity"]))
    faintest = np.abs(everything.rows["intensity"]).min() / median
    kept = Detector(model, least_contrast=0.5 * faintest)(image)
    cut = Detector(model, least_contrast=0.5 * (faintest + 1))(image)
    assert len(kept) == len(everything) > len(cut) > 0


def test_calibrated_models_report_sigma() -> None:
    sigma = {"floor_px": 0.01, "spread": 0.1, "noise_px": 0.5}
    model = networks.model(networks.spot_finder(), threshold=THRESHOLD, sigma=sigma)
    dim, bright = (Detector(model)(noisy(peak=p)).rows for p in (60, 200))
    assert (bright["sigma_px"] > 0.01).all()
    assert bright["sigma_px"].mean() < dim["sigma_px"].mean()


def test_quantile_always_finds_something() -> None:
    model = networks.model(networks.spot_finder(), threshold=THRESHOLD)
    paper = Detector(model, quantile=0.99, n_threads=1)
    assert len(paper(np.random.default_rng(1).poisson(20, SHAPE))) > 0


@pytest.mark.parametrize("tile_px", [None, 64 * 64], ids=["whole", "tiled"])
def test_h_maxima_are_those_of_scikit_image(tile_px) -> None:
    model = networks.model(networks.spot_finder(), threshold=THRESHOLD)
    paper = Detector(
        model, quantile=0.97, h_maxima=True, least_contrast=0.0, n_threads=1
    )
    if tile_px is not None:
        paper.passes.max_tile_px = tile_px
    image = noisy()
    score = np.exp(paper.maps(image).score)
    marked = h_maxima(score, np.quantile(score, 0.97))
    rows, columns = np.nonzero(marked)
    cells = np.column_stack([rows, columns]) * 4 + 1.5
    found = paper(image).positions_px
    assert len(found) == label(marked, connectivity=2).max() >= 3
    nearest = np.abs(found[:, None] - cells[None]).max(axis=2).min(axis=1)
    assert (nearest < 8).all()


def test_h_maxima_without_a_quantile_are_refused() -> None:
    with pytest.raises(SettingsError, match="quantile"):
        Detector(networks.model(networks.spot_finder()), h_maxima=True)


def test_locate_is_the_pooled_estimate(detector) -> None:
    truth = np.array([[31.0, 33.5], [29.25, 30.0]])
    crops = np.stack([networks.spots(yx[None], (64, 64)) for yx in truth])
    maps = detector.maps(crops[0])
    rows, columns = np.indices(maps.weight.shape)
    y = 4 * rows + 1.5 + maps.features["dy"]
    x = 4 * columns + 1.5 + maps.features["dx"]
    pooled = [(maps.weight * v).sum() / maps.weight.sum() for v in (y, x)]
    found = detector.locate(crops)
    np.testing.assert_allclose(found[0], pooled, atol=1e-3)  # float32 sums
    np.testing.assert_allclose(found, truth, atol=1)


def test_fields_have_two_channels_and_their_own_columns() -> None:
    channels = ("dy", "dx", "z_um", "ln_scale", "rho")
    weights = networks.thin(channels=channels, n_inputs=2)
    model = networks.model(weights, threshold=-1e30, z_um=2.0, polarizability_um3=0.5)
    rng = np.random.default_rng(0)
    field = 1 + 0.1 * (rng.normal(size=(64, 70)) + 1j * rng.normal(size=(64, 70)))
    rows = Detector(model)(field.astype(np.complex64)).rows
    assert len(rows) > 0
    assert np.isfinite(rows["z_um"]).all()
    assert (rows["polarizability_um3"] > 0).all()


@pytest.mark.parametrize("shape", [(3, 64, 64), (64,), (0, 5)], ids=str)
def test_frames_that_are_no_images_are_refused(detector, shape) -> None:
    with pytest.raises(InputError, match="expected"):
        detector(np.zeros(shape))


ANY_FRAME = arrays.arrays(
    st.sampled_from([np.uint8, np.uint16, np.int16, np.float32, np.float64]),
    arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40),
)


# Nearly nothing but for one pixel: in units of the noise that leaves float32.
@example(np.array([[1.4e-45, 0, 0, 0, 0, 1]]))
@example(np.array([[1.4e-45, 0, 0, 0, 0, 1]], dtype=np.float32))
@example(np.full((3, 3), 1e-45, dtype=np.float32) * np.arange(3, dtype=np.float32))
@settings(max_examples=60, deadline=None)
@given(ANY_FRAME)
def test_no_frame_gives_nan_or_a_position_outside(frame) -> None:
    found = _spot_finder()(frame)
    yx = found.positions_px
    assert np.isfinite(yx).all()
    assert ((yx >= -0.5) & (yx <= np.subtract(frame.shape, 0.5))).all()


@cache
def _spot_finder() -> Detector:
    model = networks.model(networks.spot_finder(), threshold=THRESHOLD)
    return Detector(model, n_threads=1)
