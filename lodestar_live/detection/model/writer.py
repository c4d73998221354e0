"""Write a trained network as a model file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import onnx

from lodestar_live.detection.model.graph import build_model
from lodestar_live.detection.model.nodes import CARD_KEY
from lodestar_live.detection.model.seal import sealed
from lodestar_live.detection.model.trial_run import answer_of
from lodestar_live.detection.model.weights import NetworkWeights
from lodestar_live.errors import ModelError
from lodestar_live.model_card import CardDraft, ModelCard, read_card


def write_model(
    weights: NetworkWeights, card: CardDraft | None = None, looks: Sequence[Any] = ()
) -> bytes:
    """Return a model file: graph, card with the answer to its trial, checksum.

    Parameters
    ----------
    weights, card, looks
        See `graph.build_model`.

    Raises
    ------
    ModelError
        The graph does not run, which is a fault of ours, or of the network's layers.
    """
    proto = build_model(weights, card, looks)
    whole = read_card(_card_text(proto))
    try:
        whole = whole.updated(trial=answer_of(proto, whole))
    except ValueError as error:
        raise ModelError(
            f"the network cannot be written as a graph: {error}"
        ) from error
    return sealed(with_card(proto, whole))


def with_card(proto: onnx.ModelProto, card: ModelCard) -> onnx.ModelProto:
    """Return a model with another card."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    for entry in changed.metadata_props:
        if entry.key == CARD_KEY:
            entry.value = json.dumps(card.to_json(), allow_nan=False)
    return changed


def _card_text(proto: onnx.ModelProto) -> str:
    return str(next(e.value for e in proto.metadata_props if e.key == CARD_KEY))
