"""Build the self-contained ONNX model: camera pixels in, positions out.

    pixels -> normalise -> network -> `features`
           -> log weight, clustering, log score -> local maxima above a threshold
           -> local weighted average of the votes -> `detections`

Three choices keep float32 exact (each has a test against a float64 reference):

* Weights stay logarithms, ln w = -softplus(-rho): a sigmoid is 0 below rho = -18,
  and trained networks put the background far below that.
* The clustering variance is computed from deviations of the nine local votes, by one
  convolution; with absolute coordinates float32 would cancel.
* Positions leave as float64: the cell's place is added to the local average last.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper

from lodestar_live.detection.model.layers import add_network
from lodestar_live.detection.model.nodes import (
    CARD_KEY,
    COLUMNS,
    INPUTS,
    LOOKS_KEY,
    OPSET,
    OUTPUTS,
    Nodes,
)
from lodestar_live.detection.model.readout import add_readout
from lodestar_live.detection.model.weights import NetworkWeights
from lodestar_live.model_card import CARD_VERSION, CardDraft, ModelCard


def build_model(
    weights: NetworkWeights, card: CardDraft | None = None, looks: Sequence[Any] = ()
) -> onnx.ModelProto:
    """Return the ONNX model of a trained network, card included.

    Parameters
    ----------
    weights
        The trained network.
    card
        What training says. `window_px` (radius of the local average) and `vote_px`
        (how far a vote may lie from the place) become part of the graph; the rest is
        stored as it is.
    looks
        What the training particles look like, see `look.shown_around`; stored beside
        the card, which people read.

    Notes
    -----
    Inputs: `pixels` (n, channels, y, x) float32; `background` and `scale`,
    broadcast against it; scalars `alpha`, `beta`, `threshold`,
    `quantile` (1: off).
    Output `detections`: one row per detection, columns `COLUMNS`, then the extra
    channels of the network.
    """
    whole = _completed(card or CardDraft(), weights)
    nodes = Nodes()
    add_network(nodes, weights)
    add_readout(nodes, weights, window_px=whole.window_px, vote_px=whole.vote_px)
    model = helper.make_model(
        _graph(nodes, weights),
        producer_name="lodestar_live",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=9,
    )
    props: dict[str, Any] = {CARD_KEY: whole.to_json()}
    if looks:
        props[LOOKS_KEY] = list(looks)
    written = {key: json.dumps(value, allow_nan=False) for key, value in props.items()}
    helper.set_model_props(model, written)
    return model


def _completed(card: CardDraft, weights: NetworkWeights) -> ModelCard:
    """Return the card of a file: what training said, and the layout of the graph."""
    known = {name: getattr(card, name) for name in card.model_fields_set}
    # Votes far from the average are gated out, so a wide window does no harm.
    window_px = min(max(8.0, 1.5 * (card.radius_px or 0.0)), 16.0)
    layout = {
        "version": CARD_VERSION,
        "window_px": window_px if card.window_px is None else card.window_px,
        "vote_px": 2.0 if card.vote_px is None else card.vote_px,
        "stride": weights.stride,
        "channels": weights.channels,
        "margin_px": weights.margin_px,
        "block_px": weights.contrast.cell_px if weights.contrast else 1,
        "bytes_per_px": weights.bytes_per_px,
        "flop_per_px": weights.flop_per_px,
        "contrast_margin_px": weights.contrast_margin_px,
        "grid_px": weights.grid_px,
        "trial": None,
    }
    return ModelCard.model_validate(known | layout)


def _graph(nodes: Nodes, weights: NetworkWeights) -> onnx.GraphProto:
    real = TensorProto.FLOAT
    image: list[str | int | None] = ["n", weights.n_inputs, "height", "width"]
    inputs = [
        helper.make_tensor_value_info("pixels", real, image),
        helper.make_tensor_value_info("background", real, ["b0", "b1", "b2", "b3"]),
        helper.make_tensor_value_info("scale", real, ["s0", "s1", "s2", "s3"]),
        *(helper.make_tensor_value_info(name, real, []) for name in INPUTS[3:]),
    ]
    n_columns = len(COLUMNS) + len(weights.channels) - 3
    rows = helper.make_tensor_value_info(
        "detections", TensorProto.DOUBLE, ["n", n_columns]
    )
    maps = [
        helper.make_tensor_value_info(name, real, ["image", None, "rows", "columns"])
        for name in OUTPUTS[1:]
    ]
    return helper.make_graph(
        nodes.nodes, "lodestar", inputs, [rows, *maps], nodes.constants
    )
