// Colours of tracks: one per id, or a scale for a measured quantity.

// blue to yellow, lighter all the way: readable for the colour-blind, in print, on black
const SCALE = [
  [92, 112, 255], [58, 148, 246], [36, 176, 220], [48, 200, 168],
  [112, 216, 104], [186, 226, 58], [253, 231, 37],
];
export const SCALE_CSS = `linear-gradient(90deg, ${SCALE.map((c) => `rgb(${c})`)})`;
const LEVELS = 24;

const ID_COLOURS = Array.from({ length: LEVELS }, (_, i) => `hsl(${(i * 360) / LEVELS} 85% 65%)`);
const SCALE_COLOURS = Array.from({ length: LEVELS }, (_, i) => {
  const at = (i / (LEVELS - 1)) * (SCALE.length - 1);
  const low = Math.min(Math.floor(at), SCALE.length - 2);
  const mix = SCALE[low].map((c, k) => Math.round(c + (SCALE[low + 1][k] - c) * (at - low)));
  return `rgb(${mix})`;
});

/** Return {colours, levels, range, unit}: which of `colours` each row is drawn in. */
export function colourRows(rows, mode) {
  const n = rows.track_id.length;
  const levels = new Uint8Array(n);
  const values = measured(rows, mode);
  if (!values) {
    // neighbours in number differ most: steps of the golden angle
    for (let i = 0; i < n; i++) levels[i] = Math.round(rows.track_id[i] * 0.618034 * LEVELS) % LEVELS;
    return { colours: ID_COLOURS, levels, range: null };
  }
  let low = Infinity;
  let high = -Infinity;
  for (const v of values) {
    if (v < low) low = v;
    if (v > high) high = v;
  }
  const span = Math.max(high - low, 1e-9);
  for (let i = 0; i < n; i++) {
    const v = values[i];
    levels[i] = Number.isFinite(v) ? Math.min(LEVELS - 1, ((v - low) / span) * LEVELS) : 0;
  }
  return { colours: SCALE_COLOURS, levels, range: [low, high] };
}

function measured(rows, mode) {
  if (mode === "z" && rows.z_um && rows.z_um.some(Number.isFinite)) return rows.z_um;
  if (mode === "speed" && rows.vy_px_per_frame) {
    return rows.vy_px_per_frame.map((v, i) => Math.hypot(v, rows.vx_px_per_frame[i]));
  }
  return null;
}
