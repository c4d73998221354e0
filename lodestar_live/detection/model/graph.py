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
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper

from lodestar_live.detection.model.layers import add_network
from lodestar_live.detection.model.nodes import Nodes
from lodestar_live.detection.model.readout import add_readout
from lodestar_live.detection.model.weights import NetworkWeights

CARD_KEY = "lodestar_live"
LOOKS_KEY = "lodestar_live.looks"
OPSET = 18
COLUMNS = (
    "image", "row", "column", "y_px", "x_px", "score", "log_weight", "consistency_px",
    "contrast",
)  # fmt: skip
INPUTS = (
    "pixels", "background", "scale", "alpha", "beta", "threshold", "quantile",
)  # fmt: skip
OUTPUTS = ("detections", "features", "contrast", "log_weight", "clustering", "score")


def build_model(
    weights: NetworkWeights, card: Mapping[str, Any], looks: Sequence[Any] = ()
) -> onnx.ModelProto:
    """Return the ONNX model of a trained network, card included.

    Parameters
    ----------
    weights
        The trained network.
    card
        What a reader should know, JSON-safe. `window_px` (radius of the local
        average) and `vote_px` (how far a vote may lie from the place) become part of
        the graph; everything else is stored as it is.
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
    card = {**card, "stride": weights.stride, "channels": list(weights.channels)}
    # Votes far from the average are gated out, so a wide window does no harm.
    card.setdefault("window_px", min(max(8.0, 1.5 * card.get("radius_px", 0)), 16.0))
    card.setdefault("vote_px", 2.0)
    card["margin_px"] = weights.margin_px
    card["block_px"] = weights.contrast.cell_px if weights.contrast else 1
    card["bytes_per_px"] = weights.bytes_per_px
    card["flop_per_px"] = weights.flop_per_px
    card["contrast_margin_px"] = weights.contrast_margin_px
    card["grid_px"] = weights.grid_px
    nodes = Nodes()
    add_network(nodes, weights)
    add_readout(nodes, weights, window_px=card["window_px"], vote_px=card["vote_px"])
    model = helper.make_model(
        _graph(nodes, weights),
        producer_name="lodestar_live",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=9,
    )
    props = {CARD_KEY: card} | ({LOOKS_KEY: list(looks)} if looks else {})
    written = {key: json.dumps(value, allow_nan=False) for key, value in props.items()}
    helper.set_model_props(model, written)
    return model


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
