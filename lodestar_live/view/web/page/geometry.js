// Stage positions (µm) and frame positions (px): sample = stage + A (p - centre).

export class StageMap {
  /** matrix: 2x2 µm per px, order (y, x); null when the run has no calibration. */
  constructor(run) {
    const size = run.pixel_size_um;
    const known = run.calibration?.matrix_um_per_px;
    this.pixelSize = Number.isFinite(size) ? size : null;
    const matrix = known ?? (this.pixelSize ? [[size, 0], [0, size]] : null);
    if (!matrix) return;
    const [[a, b], [c, d]] = matrix;
    const det = a * d - b * c;
    this.pixelSize ??= Math.sqrt(Math.abs(det));
    this.inverse = [[d / det, -b / det], [-c / det, a / det]];
    this.reference = null;
  }

  toPx(dy, dx) {
    const [[a, b], [c, d]] = this.inverse;
    return [a * dy + b * dx, c * dy + d * dx];
  }

  /** How far the view has moved since the first frame seen, (y, x) px. */
  shift(stage) {
    if (!this.inverse || !isKnown(stage)) return [0, 0];
    this.reference ??= stage;
    return this.toPx(stage.y - this.reference.y, stage.x - this.reference.x);
  }

  /** Where a place in the sample (µm) is in the frame, (y, x) px; null when unknown. */
  toFrame(y, x, stage, shape) {
    if (!this.inverse || !isKnown(stage) || !shape || !Number.isFinite(y) || !Number.isFinite(x)) return null;
    const [py, px] = this.toPx(y - stage.y, x - stage.x);
    return [py + (shape[0] - 1) / 2, px + (shape[1] - 1) / 2];
  }

  /** Corners of the travel limits in the frame, (y, x) px; null when unknown. */
  travelBox(limits, stage, shape) {
    if (!limits || !this.inverse || !isKnown(stage) || !shape) return null;
    const [[y0, y1], [x0, x1]] = [limits.y_um, limits.x_um];
    return [[y0, x0], [y0, x1], [y1, x1], [y1, x0]].map(([y, x]) => this.toFrame(y, x, stage, shape));
  }
}

function isKnown(stage) {
  return stage && Number.isFinite(stage.y) && Number.isFinite(stage.x);
}
