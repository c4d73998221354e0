"""The card of a model file: everything a model says about itself, declared once.

Training fills in a `CardDraft`; the exporter adds what follows from the network's
layers and makes it a `ModelCard`, which is stored as JSON inside the ``.onnx`` file.
Nothing else knows the names of its entries: `read_card` checks them, brings those of
older versions up to date and refuses what is damaged.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from lodestar_live.errors import ModelError

CARD_VERSION = 2
LARGEST_FACTOR = 32  # of `downsample`
_NO_LIMIT = 1e30  # infinity is not JSON
_SHOWN = 60  # characters of a damaged value that a message repeats

Pair = tuple[float, float]
Entry = TypeVar("Entry")


class Part(BaseModel):
    """A part of a card: attributes that cannot be changed, unknown ones refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __getitem__(self, key: str) -> Any:
        """Return an entry by its name, as cards of version 1 were read."""
        _warn_of_mapping(key)
        if key not in type(self).model_fields:
            raise KeyError(key)
        return getattr(self, key)

    def get(self, key: str, otherwise: Any = None) -> Any:
        """Return an entry by its name, or `otherwise` if it is not set."""
        _warn_of_mapping(key)
        value = getattr(self, key, None)
        return otherwise if value is None else value

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-safe form, without entries that are not set."""
        return self.model_dump(mode="json", exclude_none=True)


class ParticleFacts(Part):
    """What was measured on the first training particle, in the network's pixels."""

    snr: float
    contrast: float
    background: float
    noise: float
    gain: float


class TrainingFacts(Part):
    """How the network was trained."""

    seed: int
    steps: NonNegativeInt
    batch: PositiveInt
    seconds: NonNegativeFloat
    start: str | None = None
    attempts: PositiveInt | None = None
    quality: str | None = None
    noise: float | None = None  # of the field, for models of fields


class ReportFacts(Part):
    """What unseen views of the training particles say; see `TrainingReport`."""

    error_px: float
    consistency_px: float
    weight: float
    predicted_error_px: dict[str, float]
    centre_px: Pair
    problem: str = ""


class CropPlace(Part):
    """Where the first crop was: (y, x) in camera pixels; models of fields: nowhere."""

    size_px: PositiveInt
    at_px: Pair | None = None


class CropFacts(Part):
    """One training crop: place and error in camera pixels, the rest in the network's.

    `centre_px`: the point (y, x) of the crop that detections name.
    """

    at_px: Pair
    size_px: PositiveInt
    centre_px: Pair
    radius_px: PositiveFloat
    snr: float
    contrast: float
    error_px: float


class SigmaFactors(Part):
    """Factors of the predicted localisation error."""

    floor_px: NonNegativeFloat
    spread: NonNegativeFloat
    noise_px: NonNegativeFloat
    faint_px: NonNegativeFloat = 0.0


class OrientationFacts(Part):
    """How angles are told from each other.

    `fold`: the particle looks the same after 1/fold of a turn; 0: it is round.
    `axis_deg`: angle of each training particle as it was clicked. `shot`: variance of
    light over that of the background, at the particle's peak.
    """

    fold: NonNegativeInt
    axis_deg: tuple[float, ...] = Field(min_length=1)
    shot: NonNegativeFloat = 0.0


class LikeLimits(Part):
    """Limits of what is like the training particle, at ascending contrast/noise."""

    snr: tuple[PositiveFloat, ...] = Field(min_length=1)
    consistency_px: tuple[float, ...]
    score: tuple[float, ...]
    match: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _are_as_many(self) -> Self:
        limits = (self.consistency_px, self.score, self.match or self.snr)
        if any(len(values) != len(self.snr) for values in limits):
            raise ValueError("expected as many limits as values of snr")
        return self


class NoiseTailFacts(Part):
    """Rate of noise above a score; see `detection.run.noise_tail.NoiseTail`."""

    start: float
    scale: PositiveFloat
    shape: PositiveFloat
    start_rate: NonNegativeFloat


class CalibrationFacts(Part):
    """How the threshold came about; scores are log scores."""

    false_alarms_per_mpx: NonNegativeFloat
    noise_score: float
    ghost_score: float | None = None
    particle_score: float
    practised_snr: tuple[float, ...]
    n_snapshot: NonNegativeInt
    separated: bool
    from_snapshot: bool = False  # the snapshot's own particles set the threshold
    noise_tail: NoiseTailFacts | None = None


class OpticsFacts(Part):
    """The optics of a model of fields, as `holography.Optics`."""

    wavelength_um: PositiveFloat
    pixel_size_um: PositiveFloat
    n_medium: PositiveFloat = 1.33
    na: PositiveFloat = 1.3


class ReferenceField(Part):
    """The training particle's field, background 1, the particle at the centre.

    `complex64`: base64 of the little-endian pixels, row after row.
    """

    shape: tuple[PositiveInt, PositiveInt]
    complex64: str
    pixel_size_um: PositiveFloat


class ChannelGate(Part):
    """What unseen views said about one channel: found against true value."""

    channel: str
    slope: float
    rmse: NonNegativeFloat
    low: float
    high: float


class ThresholdScores(Part):
    """Between which log scores the threshold of a model of fields lies."""

    dim_particles: float
    noise: float


class TrialAnswer(Part):
    """What the graph answers to its trial frame; see `detection.model.trial_run`."""

    side_px: PositiveInt = Field(le=1024)
    answer: tuple[float, ...]


class CardDraft(Part):
    """What training says about a model, before its graph is built.

    `input`: ``image`` or ``field``. Lengths ending in ``_px`` are pixels of what the
    network sees, except in `report`, `crop` and `crops`: `downsample` camera pixels
    make one of them.
    """

    network: str | None = None
    input: Literal["image", "field"] = "image"
    downsample: Annotated[int, Field(ge=1, le=LARGEST_FACTOR)] = 1
    centre_px: Pair | None = None
    radius_px: PositiveFloat | None = None
    particle: ParticleFacts | None = None
    training: TrainingFacts | None = None
    report: ReportFacts | None = None
    crop: CropPlace | None = None
    crops: tuple[CropFacts, ...] = ()
    # Detection: score = alpha ln(weight) + beta ln(clustering), at least `threshold`.
    alpha: float | None = None
    beta: float | None = None
    threshold: float | None = None
    apart_px: NonNegativeFloat = 0.0  # nearer marks are of one particle
    noise_floor: PositiveFloat = 1.0  # contrast up to which correlated noise reaches
    threshold_scores: ThresholdScores | None = None
    sigma: SigmaFactors | None = None
    like: LikeLimits | None = None
    orientation: OrientationFacts | None = None
    calibration: CalibrationFacts | None = None
    # Fields: what a vote of 0 means, and what other particles are compared with.
    optics: OpticsFacts | None = None
    z_um: float = 0.0
    polarizability_um3: float | None = None
    reference_z_um: float | None = None
    reference_field: ReferenceField | None = None
    gate: tuple[ChannelGate, ...] = ()
    # The graph's local average; left out: chosen by the radius.
    window_px: Annotated[float, Field(gt=0, le=256)] | None = None
    vote_px: Annotated[float, Field(gt=0, le=256)] | None = None

    def updated(self, **entries: Any) -> Self:
        """Return this card with other entries, checked like all others."""
        known = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self).model_validate(known | entries)


class ModelCard(CardDraft):
    """The card as it lies in a model file: what training said, and the graph's layout.

    `margin_px`, `contrast_margin_px`: how far a cell sees. `trial`: what the graph
    answered when it was written; none in older files.
    """

    version: Literal[2] = 2  # CARD_VERSION
    stride: Annotated[int, Field(ge=1, le=64)]
    channels: tuple[str, ...]
    grid_px: Annotated[int, Field(ge=1, le=256)]
    block_px: Annotated[int, Field(ge=1, le=64)]
    margin_px: Annotated[int, Field(ge=0, le=4096)]
    contrast_margin_px: Annotated[int, Field(ge=0, le=4096)]
    bytes_per_px: PositiveFloat
    flop_per_px: PositiveFloat | None = None
    window_px: Annotated[float, Field(gt=0, le=256)]
    vote_px: Annotated[float, Field(gt=0, le=256)]
    trial: TrialAnswer | None = None

    @model_validator(mode="after")
    def _has_votes(self) -> Self:
        is_odd = len({*self.channels}) != len(self.channels)
        if is_odd or not {"dy", "dx", "rho"} <= {*self.channels}:
            raise ValueError("expected channels dy, dx, rho and others, each once")
        return self

    def reference(self, channel: str) -> float | None:
        """Return the training particle's own value of a channel that is voted for."""
        return {"z": self.z_um, "scale": self.polarizability_um3}.get(channel)

    @property
    def extras(self) -> tuple[str, ...]:
        """Names of the network's outputs beyond position and weight."""
        return tuple(c for c in self.channels if c not in ("dy", "dx", "rho"))


def stated(entry: Entry | None, name: str) -> Entry:
    """Return an entry that this kind of model states.

    Raises
    ------
    ModelError
        It does not.
    """
    if entry is None:
        raise ModelError(f"the model's card states no {name}; train the model again.")
    return entry


def read_card(text: str) -> ModelCard:
    """Read a card of any version from its JSON.

    Raises
    ------
    ModelError
        It is no card, holds what none may hold, or is of a later version; the message
        is a sentence without the file's name.
    """
    try:
        found = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"its card is not JSON ({error}); expected a model written by "
            "`lodestar-live train`. Copy the file again."
        ) from error
    if not isinstance(found, dict):
        raise ModelError(
            f"its card is a JSON {type(found).__name__}; expected a model written by "
            "`lodestar-live train`."
        )
    version = found.get("version", 1)
    if version not in (1, CARD_VERSION) or isinstance(version, bool):
        raise ModelError(
            f"its card has version {_shown(version)}; this program reads 1 to "
            f"{CARD_VERSION}. Update lodestar-live, or copy the file again if it was "
            "not written by a later one."
        )
    try:
        return ModelCard.model_validate_json(json.dumps(_upgraded(found)), strict=True)
    except ValidationError as error:
        raise ModelError(_sentence(error)) from error


def is_later_than_first(card: str) -> bool:
    """Tell whether a card's JSON claims a version whose files carry a checksum."""
    try:
        found = json.loads(card)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("version", 1) != 1


def _upgraded(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return a card of any version as one of the present version."""
    card = dict(card)
    if card.get("version", 1) == 1:
        spread, score = card.pop("consistency_px", None), card.pop("like_score", None)
        if "like" not in card and (spread, score) != (None, None):
            card["like"] = {
                "snr": [1.0],
                "consistency_px": [_NO_LIMIT if spread is None else spread],
                "score": [-_NO_LIMIT if score is None else score],
            }
    return card | {"version": CARD_VERSION}


def _sentence(error: ValidationError) -> str:
    """Name the first entry that is wrong, its value, what was expected, the remedy."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "card"
    expected = first["msg"].removeprefix("Value error, ")
    value = "" if first["type"] == "missing" else f" = {_shown(first['input'])}"
    return (
        f"its card says {place}{value}: {expected}. Copy the file again; if it was "
        "edited, train and export it again."
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _warn_of_mapping(key: str) -> None:
    warnings.warn(
        f"card[{key!r}] and card.get({key!r}) go with the next version; write "
        f"card.{key}, or card.to_json() for all of it.",
        DeprecationWarning,
        stacklevel=3,
    )
