"""The card of a model: one schema, for what is written today and what was shipped."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lodestar_live import train
from lodestar_live.channels import of_output
from lodestar_live.detection import Detector
from lodestar_live.detection.model.model_file import read_model
from lodestar_live.detection.model.nodes import CARD_KEY
from lodestar_live.detection.model.seal import sealed
from lodestar_live.errors import ModelError
from lodestar_live.model_card import CARD_VERSION, CardDraft, ModelCard, read_card
from lodestar_live.resources import find
from lodestar_live.training.model import Model
from tests.detection import networks
from tests.simulation import shapes

PACKAGE = Path(__file__).parents[2] / "lodestar_live"
SHIPPED = ("beads_hologram.onnx", "beads_inline.onnx")


@pytest.fixture(scope="module")
def model() -> Model:
    image = 100 + 1000 * shapes.sample("sphere", 1, snr=10, seed=50).images[0]
    return train(image.astype(np.uint16), steps=60, start="warm")


def card_text(name: str) -> str:
    proto = onnx.load(str(find("models", name)))
    return next(e.value for e in proto.metadata_props if e.key == CARD_KEY)


def test_a_card_written_today_is_read_as_it_was_written(model: Model) -> None:
    card = Detector(model.to_bytes()).card
    for name in CardDraft.model_fields:
        written, read = getattr(model.card, name), getattr(card, name)
        if name not in ("window_px", "vote_px"):  # chosen when the graph is built
            assert read == written, name
    assert card.version == CARD_VERSION
    assert card.trial is not None
    assert read_card(json.dumps(card.to_json())) == card


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_cards_load_through_the_model(name: str) -> None:
    before = json.loads(card_text(name))
    card = read_model(find("models", name)).card
    assert "version" not in before and card.version == CARD_VERSION
    now = card.to_json()
    moved = {"consistency_px", "like_score"}  # became `like`
    for key, value in before.items():
        if key not in moved:
            # Factors that came later have the value that changes nothing.
            known = now[key] | value if isinstance(value, dict) else value
            assert now[key] == known, key
    if "consistency_px" in before:
        assert card.like is not None
        assert card.like.consistency_px == (before["consistency_px"],)


def test_every_output_is_that_of_a_declared_channel(model: Model) -> None:
    cards = [read_model(find("models", name)).card for name in SHIPPED]
    for card in (*cards, Detector(model.to_bytes()).card):
        for output in card.extras:
            assert of_output(output).output == output


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"stride": 0}, "stride = 0: .*greater than or equal to 1"),
        ({"stride": "4"}, "stride = '4': .*integer"),
        ({"stride": None}, "stride = None"),
        ({"window_px": float("nan")}, "not JSON"),
        ({"threshold": [1.0]}, r"threshold = \[1.0\]: .*number"),
        ({"channels": ["dy", "dx"]}, "expected channels dy, dx, rho"),
        ({"channels": ["dy", "dx", "rho", "rho"]}, "each once"),
        ({"strid": 4}, "strid = 4: .*not permitted"),
        ({"sigma": {"floor_px": -1}}, "sigma.floor_px = -1"),
        ({"like": {"snr": [1, 2], "consistency_px": [1], "score": [1]}}, "as many"),
        ({"version": 99}, "version 99; this program reads 1 to 2. Update"),
        ({"version": True}, "version True"),
        ({"version": "2"}, "version '2'"),
    ],
    ids=str,
)
def test_damaged_cards_are_refused_with_a_sentence(
    entries: dict[str, Any], said: str
) -> None:
    proto = onnx.load_from_string(networks.model(networks.thin()))
    (entry,) = (e for e in proto.metadata_props if e.key == CARD_KEY)
    entry.value = json.dumps(json.loads(entry.value) | entries)
    with pytest.raises(ModelError, match=said) as caught:
        Detector(sealed(proto))
    assert str(caught.value).startswith("model: its card ")
    assert "again" in str(caught.value) or "Update" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", '"card"', "[" * 100_000])
def test_what_is_no_card_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="its card is"):
        read_card(text)


def test_missing_entries_are_named() -> None:
    with pytest.raises(ModelError, match=r"its card says \w+: Field required"):
        read_card('{"channels": ["dy", "dx", "rho"]}')


def test_reading_by_key_still_works_and_names_its_successor(model: Model) -> None:
    with pytest.warns(DeprecationWarning, match=re.escape("card.report")):
        report = model.card["report"]
    with pytest.warns(DeprecationWarning, match=re.escape("card.error_px")):
        assert report["error_px"] == model.card.report.error_px
    with pytest.warns(DeprecationWarning):
        assert model.card.get("nothing", 3) == 3


def test_no_other_file_knows_a_cards_keys() -> None:
    """Entries are attributes: a misspelt one is a type error, not a None."""
    by_key = re.compile(r"""\bcard(\[|\.get\()\s*["']""")
    told = [
        f"{path.name}: {line}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "model_card.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if by_key.search(line)
    ]
    assert told == []


def test_cards_cannot_be_changed(model: Model) -> None:
    with pytest.raises(ValueError, match="frozen"):
        model.card.threshold = 0.0  # type: ignore[misc]
    assert isinstance(Detector(model.to_bytes()).card, ModelCard)
