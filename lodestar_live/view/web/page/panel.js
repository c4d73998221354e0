// Numbers beside and on the picture: counters, one track's values, scale and colour bars.

import { SCALE_CSS } from "./colours.js";

const $ = (name) => document.getElementById(name);

/** Where the frames went, how fast, how late. */
export function showCounters(status) {
  const { counts = {}, fps, latency_ms: latency = {} } = status;
  const entries = [
    ["received", counts.received], ["processed", counts.processed], ["dropped", counts.dropped, true],
    ["failed", counts.failed, true], ["waiting", counts.waiting], ["frames/s", fps?.toFixed(1)],
    ["ms, median", latency.latency?.p50?.toFixed(1)], ["ms, p99", latency.latency?.p99?.toFixed(1)],
    ["tracks", status.n_tracks],
    ...(status.degraded ? [[unwell(status.health), "degraded", true, true]] : []),
  ];
  $("counters").replaceChildren(...entries.filter(([, value]) => value !== undefined).map(([name, value, isBad, always]) => {
    const cell = document.createElement("div");
    const number = document.createElement("b");
    number.textContent = value;
    number.classList.toggle("bad", Boolean(always || (isBad && value > 0)));
    const label = document.createElement("span");
    label.textContent = name;
    cell.append(number, label);
    return cell;
  }));
}

/** Parts of the run that are not as they should be, in one line. */
function unwell(health = {}) {
  return Object.entries(health).map(([part, { why }]) => `${part}: ${why}`).join("; ") || "see the log";
}

/** What is known of the track in row `i`: [[name, text], ...]. */
export function describe(scene, i) {
  const rows = scene.tracks;
  const value = (name, digits = 2) => {
    const v = rows[name]?.[i];
    return Number.isFinite(v) ? v.toFixed(digits) : null;
  };
  const speed = Math.hypot(rows.vy_px_per_frame?.[i], rows.vx_px_per_frame?.[i]);
  return [
    ["track", `#${rows.track_id[i]}${rows.track_id[i] === scene.targetId ? " (followed)" : ""}`],
    ["y, x", `${value("y_px")}, ${value("x_px")} px`],
    ["± 1 sigma", value("sigma_px", 3) && `${value("sigma_px", 3)} px`],
    ["angle", value("angle_deg", 1) && `${value("angle_deg", 1)}° ± ${value("sigma_angle_deg", 1) ?? "?"}`],
    ["z", value("z_um") && `${value("z_um")} µm`],
    ["polarizability", value("polarizability_um3", 4) && `${value("polarizability_um3", 4)} µm³`],
    ["speed", Number.isFinite(speed) ? `${speed.toFixed(2)} px/frame` : null],
    ...describeMotion(scene.motions, rows.track_id[i]),
    ["score", value("score", 3)],
    ["age", value("age_frames", 0) && `${value("age_frames", 0)} frames`],
    ["missed", rows.missed_frames?.[i] > 0 ? `${rows.missed_frames[i]} frames` : null],
  ].filter(([, text]) => text);
}

/** D with its error, and the law of motion, of one track: [[name, text], ...]. */
function describeMotion(motions, trackId) {
  const i = motions ? motions.rows.track_id.indexOf(trackId) : -1;
  if (i < 0) return [];
  const value = (name) => motions.rows[name][i];
  const size = motions.pixelSize;
  const interval = value("interval_s");
  const isMetric = size > 0 && interval > 0;
  const scale = isMetric ? size ** 2 / interval : 1;
  const [d, sigma] = [value("d_px2_per_frame") * scale, value("sigma_d_px2_per_frame") * scale];
  const [alpha, sigmaAlpha] = [value("alpha"), value("sigma_alpha")];
  const state = motions.states[value("state")];
  return [
    ["D", Number.isFinite(d) ? `${d.toPrecision(3)} ± ${sigma.toPrecision(1)} ${isMetric ? "µm²/s" : "px²/frame"}` : null],
    ["exponent", Number.isFinite(alpha) ? `${alpha.toFixed(2)} ± ${sigmaAlpha.toFixed(2)}` : null],
    ["motion", state ? `${state} (${(100 * value("p_state")).toFixed(0)} %)` : null],
  ];
}

/** A bar of 1, 2 or 5 times a power of ten, as long as it is in the sample. */
export function showScaleBar(scene, stageMap) {
  if (!stageMap.pixelSize) return;
  const target = (120 / scene.view.zoom) * stageMap.pixelSize;
  const power = 10 ** Math.floor(Math.log10(target));
  const length = [5, 2, 1].map((k) => k * power).find((v) => v <= target) ?? power;
  const bar = $("scale-bar");
  bar.hidden = false;
  bar.style.width = `${(length / stageMap.pixelSize) * scene.view.zoom}px`;
  bar.firstElementChild.textContent = `${Number(length.toPrecision(2))} µm`;
}

/** What the colours mean; range null: one colour per id. */
export function showColours(scene, range) {
  const bar = $("colour-bar");
  bar.hidden = !range;
  if (!range) return;
  const [label, strip, ends] = bar.children;
  const unit = scene.colour === "z" ? "µm" : "px/frame";
  label.textContent = scene.colour === "z" ? "z" : "speed";
  strip.style.background = SCALE_CSS;
  const texts = range.map((v) => `${v.toFixed(1)} ${unit}`);
  if (ends.textContent !== texts.join("")) {
    ends.replaceChildren(...texts.map((text) => Object.assign(document.createElement("em"), { textContent: text })));
  }
}
