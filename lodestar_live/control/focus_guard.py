"""Does the focus drive do what the calibration says? Its first small moves tell."""

from __future__ import annotations

import numpy as np

FIRST_STEP_UM = 0.5  # until the drive has been seen to obey; doubled by each move
PROOF = 8.0  # log-likelihood ratio
LARGEST_VOTE = 5.0  # of one move, which an outlier may have made
NOISE_UM = 0.15  # of z beside what its own scatter says: the particle moves, too
GROWING_MOVES = 5


class FocusGuard:
    """Compares what each focus move did to the measured z with what it should.

    A move of the drive by h must change z by ``z_sign * h``. Against that stand two
    other explanations: it goes the other way, or z does not follow the drive at all.

    Parameters
    ----------
    z_sign
        As calibrated.
    """

    def __init__(self, z_sign: int) -> None:
        self._z_sign = z_sign
        self._before: tuple[float, float, int | None] | None = None
        self._reversed = self._deaf = 0.0  # log-likelihood ratios over "as calibrated"
        self._n_obeyed = 0
        self._errors_um: list[float] = []

    @property
    def is_verified(self) -> bool:
        """True once the drive was seen to obey beyond doubt."""
        return max(self._reversed, self._deaf) < -PROOF

    def careful(self, step_um: float) -> float:
        """Return the step, shortened until the drive has been seen to obey."""
        if self.is_verified:
            return step_um
        longest_um = FIRST_STEP_UM * 2.0**self._n_obeyed
        return float(np.clip(step_um, -longest_um, longest_um))

    def moved(self, height_um: float, z_um: float, track_id: int | None) -> None:
        """Note a move that was sent from here."""
        self._before = (height_um, z_um, track_id)

    def observe(
        self, height_um: float, z_um: float, spread_um: float, track_id: int | None
    ) -> None:
        """Take z and its scatter over the frames since the last move."""
        if self._before is None:
            return
        height_before, z_before, who = self._before
        self._before = None
        if who != track_id or not np.isfinite([height_um, height_before]).all():
            self._errors_um.clear()
            return
        expected = self._z_sign * (height_um - height_before)
        seen = z_um - z_before
        variance = 2 * (NOISE_UM**2 + spread_um**2)
        obeys = (seen - expected) ** 2
        self._reversed += _vote((obeys - (seen + expected) ** 2) / (2 * variance))
        self._deaf += _vote((obeys - seen**2) / (2 * variance))
        self._reversed = max(self._reversed, -2 * PROOF)  # it may change its mind
        self._deaf = max(self._deaf, -2 * PROOF)
        self._n_obeyed = self._n_obeyed + 1 if seen * expected > 0 else 0
        self._errors_um = [*self._errors_um[-GROWING_MOVES:], abs(z_um)]

    def suspicion(self) -> str:
        """Return why the drive must not go on; empty while all may be well."""
        if self._reversed > PROOF and self._reversed >= self._deaf:
            return (
                "the focus drive goes the wrong way: sign/calibration? Run "
                "lodestar-live calibrate --z; then arm again."
            )
        if self._deaf > PROOF:
            return (
                "the measured z does not follow the focus drive. Is it the right "
                "drive, and does the model measure z? Then arm again."
            )
        errors = self._errors_um
        is_growing = len(errors) > GROWING_MOVES and bool(np.all(np.diff(errors) > 0))
        if is_growing and errors[-1] > max(1.5 * errors[0], errors[0] + NOISE_UM):
            return (
                f"the error in z grew over {GROWING_MOVES} focus moves: "
                "sign/calibration? Then arm again."
            )
        return ""


def _vote(ratio: float) -> float:
    return float(np.clip(ratio, -LARGEST_VOTE, LARGEST_VOTE))
