// The overlay page: wires the connection, the picture, the numbers and the keys.

import { Charts } from "./charts.js";
import { Connection } from "./connection.js";
import { StageMap } from "./geometry.js";
import { noticeOf } from "./notices.js";
import { describe, showColours, showCounters, showScaleBar } from "./panel.js";
import { Player } from "./player.js";
import { watchPointer } from "./pointer.js";
import { decode, Scene } from "./scene.js";
import { Job } from "./start.js";

const $ = (name) => document.getElementById(name);
const NUMBERS_MS = 200;
const SILENT_S = 3; // without a heartbeat for so long the tracker counts as lost

const scene = new Scene($("stage"));
const charts = new Charts($("latency-plot"), $("lost-plot"));
const player = new Player($("player"), () => connection.nudge());
let run = { kind: "live", verbs: [] };
let stageMap = new StageMap({});
let isPaused = false;
let shownFrame = -1;
let imageFrame = -1;
let nUpdates = 0;
let updateTimes = [];
let numbersShownAt = -1000;
let controlShownAt = -1000;
let isSnapshot = false; // the image stands for no frame of its own
let nSwapped = 0; // models swapped in and not rolled back

// -- what arrives --------------------------------------------------------------

const PICTURED = new Set(["image", "tracks", "detections"]); // a pause holds these
const HANDLERS = {
  run: takeRun,
  status: (part) => {
    charts.push(part.list);
    showCounters(part.list.at(-1));
    showControl(part.list.at(-1).control);
  },
  events: (part) => part.list.forEach(showEvent),
  image: (part) => {
    scene.showImage(part, part.bitmap);
    imageFrame = part.frame;
    isSnapshot = Boolean(part.snapshot);
    $("snapshot-note").hidden = !isSnapshot;
    $("empty").hidden = true;
  },
  tracks: takeTracks,
  detections: (part) => {
    scene.detections = part.rows;
  },
  summary: (part) => {
    scene.motions = { ...part, pixelSize: stageMap.pixelSize };
    showNumbersSoon();
  },
  end: () => setState("ended", "run ended"),
  candidates: (part) => job.takeRows(part),
  found: (part) => job.takeRows(part),
  nothing_found: () => job.forgetFound(),
  report: (part) => job.takeReport(part),
  silence: (part) => {
    if (run.kind !== "live") return;
    if (part.silent_s === null) setState("waiting", "waiting for a run");
    else if (part.silent_s > SILENT_S && !isEnded()) setState("lost", `no news for ${part.silent_s.toFixed(0)} s`);
  },
};

/**
 * Image and tracks of one answer are shown in one step, after the slow decoding: a
 * pause comes before or after both, and never leaves circles on another frame's image.
 */
async function takeParts(parts) {
  const start = parts.find((part) => part.topic === "start"); // only of `start`
  if (start) await job.take(start);
  const image = parts.find((part) => part.topic === "image");
  if (parts.some((part) => part.kind && part.kind !== "live")) isPaused = false; // nothing to pause
  if (image && !isPaused) image.bitmap = await decode(image);
  for (const part of parts) {
    if (!isPaused || !PICTURED.has(part.topic)) HANDLERS[part.topic]?.(part);
  }
  if (isPaused) image?.bitmap?.close();
  if (parts.some((part) => part.topic === "tracks")) countUpdate();
  // without newer images the tracks go on over the last one, which then is pale
  if (!isPaused) scene.image.classList.toggle("dim", isSnapshot || imageFrame < shownFrame);
  scene.requestDraw();
}

function takeRun(part) {
  run = part;
  stageMap = new StageMap(run);
  scene.clear();
  scene.targetId = run.target_id ?? null;
  charts.clear();
  nSwapped = 0;
  $("events").replaceChildren();
  shownFrame = imageFrame = -1;
  $("source").textContent = [run.settings?.name, run.run?.slice(0, 8), run.source].filter(Boolean).join(" · ");
  $("pause").hidden = run.kind === "recorded"; // the player below has its own
  if (run.kind !== "recorded") player.close();
  if (run.kind === "live") showControl(undefined);
  if (run.kind === "recorded") {
    setState("recorded", "recording");
    charts.setHistory(run.history);
    player.open(run);
    showCounters({ counts: run.counts, fps: run.fps });
  }
  enableCommands();
}

function takeTracks(part) {
  if (run.kind !== "recorded") setState("live", "live");
  const before = shownFrame;
  shownFrame = part.frame;
  scene.setShape(part.shape_px);
  const stage = run.kind === "recorded" ? stageAt(part.frame) : part.stage_um;
  if (part.rows.frame) takeWindow(part, before);
  else scene.setTracks(part.rows, stageMap.shift(stage));
  if (part.target_id !== undefined) scene.targetId = part.target_id;
  if (part.control) showControl(part.control);
  scene.prediction = stageMap.toFrame(part.control?.predicted_y_um, part.control?.predicted_x_um, stage, scene.shape);
  scene.travelBox = stageMap.travelBox(run.settings?.control?.limits, stage, scene.shape);
  (part.events ?? []).forEach(showEvent);
  $("empty").hidden = true;
  showNumbersSoon();
  showScaleBar(scene, stageMap);
}

/** Nobody reads numbers that change at the camera's rate; laying them out costs. */
function showNumbersSoon() {
  if (performance.now() - numbersShownAt > NUMBERS_MS) showNumbers();
}

/** Several frames of a recording: the earlier ones only make tails. */
function takeWindow(part, before) {
  const { frame } = part.rows;
  if (part.first !== before + 1) scene.tails.clear();
  scene.tracks = slice(part.rows, frame.length);
  for (let start = 0, end = 1; start < frame.length; start = end++) {
    while (end < frame.length && frame[end] === frame[start]) end++;
    const rows = slice(part.rows, start, end);
    const shift = stageMap.shift(stageAt(frame[start]));
    if (frame[start] === part.frame) scene.setTracks(rows, shift);
    else scene.tails.push(rows, shift);
  }
}

function slice(rows, start, end) {
  return Object.fromEntries(Object.entries(rows).map(([name, values]) => [name, values.subarray(start, end)]));
}

const stageAt = (frame) => run.stage_um[run.frames.indexOf(frame)];

function countUpdate() {
  nUpdates++;
  const now = performance.now();
  updateTimes.push(now);
  updateTimes = updateTimes.filter((t) => now - t < 2000);
}

// -- numbers ---------------------------------------------------------------------

function setState(kind, text) {
  const label = isPaused && kind === "live" ? "paused" : text;
  const element = $("state");
  if (element.textContent === label) return;
  element.className = `state ${isPaused && kind === "live" ? "paused" : kind}`;
  element.textContent = label;
}

const isEnded = () => $("state").classList.contains("ended");

/** What the stage is doing: the controller's own words. */
function showControl(control) {
  const chip = $("control");
  chip.hidden = !control;
  $("arm").hidden = !control?.halted || !control.armed;
  if (!control) return;
  if (Number.isInteger(control.track_id) && !isPaused) scene.targetId = control.track_id;
  const target = control.track_id === null ? "" : ` #${control.track_id}`;
  const off = Number.isFinite(control.error_um) ? ` · ${control.error_um.toFixed(1)} µm off` : "";
  const text = control.halted ? `stage ${control.halted}` : `${control.state}${target}${off}${control.armed ? "" : " (dry run)"}`;
  const isCalm = control.state === chip.dataset.state && Boolean(control.halted) === chip.classList.contains("lost");
  if (chip.textContent === text || (isCalm && performance.now() - controlShownAt < NUMBERS_MS)) return;
  controlShownAt = performance.now();
  chip.dataset.state = control.state;
  chip.textContent = text;
  chip.className = `state ${control.halted ? "lost" : "recorded"}`;
}

function showNumbers() {
  numbersShownAt = performance.now();
  const i = scene.rowOf(chosenId());
  $("selection-hint").hidden = i >= 0;
  $("numbers").replaceChildren(...(i < 0 ? [] : describe(scene, i)).flatMap(([name, text]) => {
    const [term, data] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    data.textContent = text;
    return [term, data];
  }));
  enableCommands();
}

function showEvent(event) {
  if (event.kind === "retrain.swapped") nSwapped++;
  if (event.kind === "retrain.rolled_back") nSwapped--;
  const notice = noticeOf(event);
  if (notice) showReply(...notice);
  const line = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = `${event.t_s.toFixed(2)} s`;
  const ids = event.details?.track_ids ?? event.details?.track_id;
  line.append(time, `${event.kind}${ids === undefined ? "" : ` #${[ids].flat().slice(0, 4).join(" #")}`}`);
  const list = $("events");
  list.prepend(line);
  while (list.children.length > 60) list.lastChild.remove();
}

// -- commands ----------------------------------------------------------------------

function enableCommands() {
  const can = (verb) => (run.verbs ?? []).includes(verb);
  const hasTrack = scene.rowOf(scene.selectedId) >= 0;
  const hasPlace = placeChosen() !== null;
  $("stop").disabled = !can("stop");
  $("arm").disabled = !can("arm");
  $("follow").disabled = !can("follow") || !hasTrack;
  $("retrain").disabled = !can("retrain") || !hasPlace;
  $("rollback").disabled = !can("rollback") || nSwapped < 1;
  $("release").disabled = !can("release");
  $("recenter").disabled = !can("recenter") || !hasPlace;
  const why = run.kind === "recorded" ? "A recording takes no commands."
    : run.verbs?.length ? "This run moves no stage." : "Commands are off in this run (streams.control is not set).";
  $("stop").title = can("stop") ? "Stop the stage (S)" : why;
}

function send(verb, args = {}) {
  if (!(run.verbs ?? []).includes(verb)) return;
  const isSent = connection.command(verb, args);
  showReply(isSent ? `${verb}…` : `${verb}: not connected`, isSent ? "" : "bad");
}

function showReply(text, kind) {
  $("reply").textContent = text;
  $("reply").className = kind;
}

const follow = () => scene.selectedId !== null && send("follow", { track_id: scene.selectedId });
/** The track the numbers and buttons are about: the one selected, else the followed. */
const chosenId = () => {
  if (scene.rowOf(scene.selectedId) >= 0) return scene.selectedId;
  return scene.clicked ? null : scene.targetId;
};

/** The chosen track where it is shown, or the place clicked where no track is. */
function placeChosen() {
  const i = scene.rowOf(chosenId());
  return i < 0 ? scene.clicked : { y_px: scene.tracks.y_px[i], x_px: scene.tracks.x_px[i], frame: shownFrame };
}
const recenter = () => placeChosen() && send("recenter", placeChosen());
/** A track may have moved on since it was drawn: the tracker knows where it is now. */
const retrain = () => placeChosen() && send("retrain", chosenId() === null ? scene.clicked : { track_id: chosenId() });

function select(i, place = null) {
  scene.selectedId = i < 0 ? null : scene.tracks.track_id[i];
  scene.clicked = i < 0 ? place : null;
  showNumbers();
  scene.requestDraw();
}

function selectNext(step) {
  const ids = [...(scene.tracks?.track_id ?? [])].sort((a, b) => a - b);
  if (!ids.length) return;
  const at = ids.indexOf(scene.selectedId);
  const next = at < 0 ? (step > 0 ? 0 : ids.length - 1) : (at + step + ids.length) % ids.length;
  select(scene.rowOf(ids[next]));
}

function togglePause() {
  if (run.kind === "recorded") {
    player.toggle();
    return;
  }
  isPaused = !isPaused;
  $("pause").setAttribute("aria-pressed", isPaused);
  $("pause").textContent = isPaused ? "Resume" : "Pause";
  if (isPaused) setState("live", "live");
}

// -- hands -----------------------------------------------------------------------------

watchPointer(scene, {
  onHover(x, y) {
    const i = x === null ? -1 : scene.find(x, y);
    scene.hoverId = i < 0 ? null : scene.tracks.track_id[i];
    const tip = $("tooltip");
    tip.hidden = i < 0;
    if (i >= 0) {
      tip.textContent = describe(scene, i).map(([name, text]) => `${name} ${text}`).join("\n");
      tip.style.left = `${Math.min(x + 16, scene.width - tip.offsetWidth - 4)}px`;
      tip.style.top = `${Math.min(y + 16, scene.height - tip.offsetHeight - 4)}px`;
    }
    scene.requestDraw();
  },
  onDrag: (pointer, x, y) => job.isPreparing && job.drag(pointer, x, y),
  onDrop: () => job.drop(),
  onClick(x, y) {
    const [y_px, x_px] = scene.toFrame(x, y);
    const [height, width] = scene.shape ?? [0, 0];
    const isInside = y_px >= 0 && x_px >= 0 && y_px < height && x_px < width;
    if (job.isPreparing) {
      if (isInside) job.click(y_px, x_px);
      return;
    }
    select(scene.find(x, y), isInside ? { y_px, x_px, frame: Math.max(shownFrame, imageFrame, 0) } : null);
  },
  onDoubleClick: (x, y) => {
    if (job.isPreparing) return;
    select(scene.find(x, y));
    follow();
  },
});

function cycle(name) {
  const box = $(name);
  if (box.type === "checkbox") box.checked = !box.checked;
  else box.selectedIndex = (box.selectedIndex + 1) % box.options.length;
  box.dispatchEvent(new Event("change"));
}

for (const name of ["detections", "tails", "ids"]) {
  $(`show-${name}`).addEventListener("change", (event) => {
    scene.show[name] = event.target.checked;
    scene.requestDraw();
  });
}
$("colour").addEventListener("change", (event) => {
  scene.colour = event.target.value;
  showColours(scene, null);
  scene.requestDraw();
});
for (const name of ["contrast", "brightness"]) {
  $(name).addEventListener("input", () => {
    scene.image.style.filter = `brightness(${$("brightness").value}) contrast(${$("contrast").value})`;
  });
}
const BUTTONS = {
  pause: togglePause, "zoom-in": () => scene.zoomAt(1.4), "zoom-out": () => scene.zoomAt(1 / 1.4),
  fit: () => scene.fit(), stop: () => send("stop"), arm: () => send("arm"), follow, retrain, release: () => send("release"),
  recenter, rollback: () => send("rollback"), "help-button": () => $("help").showModal(),
};
for (const [name, action] of Object.entries(BUTTONS)) $(name).addEventListener("click", action);

const KEYS = {
  " ": togglePause, "+": () => scene.zoomAt(1.4), "=": () => scene.zoomAt(1.4), "-": () => scene.zoomAt(1 / 1.4),
  0: () => scene.fit(), ArrowLeft: () => scene.pan(60, 0), ArrowRight: () => scene.pan(-60, 0),
  ArrowUp: () => scene.pan(0, 60), ArrowDown: () => scene.pan(0, -60),
  "[": () => selectNext(-1), "]": () => selectNext(1), Enter: follow, s: () => send("stop"),
  r: () => send("release"), c: recenter, t: retrain, u: () => !$("rollback").disabled && send("rollback"), d: () => cycle("show-detections"),
  l: () => cycle("show-tails"), i: () => cycle("show-ids"), z: () => cycle("colour"),
  ",": () => player.step(-1), ".": () => player.step(1), "?": () => $("help").showModal(),
  Escape: () => select(-1),
};
document.addEventListener("keydown", (event) => {
  const isControl = event.target.closest("input, select, dialog");
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isPress = event.target.closest("button, summary") && (key === " " || key === "Enter");
  if (!isControl && !isPress && !event.target.closest("textarea") && job.key(key, event)) {
    event.preventDefault();
    return;
  }
  if (!KEYS[key] || event.target.closest("textarea, summary")) return;
  if (event.target.closest("button") && (key === " " || key === "Enter")) return; // presses it
  if (isControl && key !== "s" && !(event.target.type === "checkbox" && key.length === 1 && key !== " ")) return;
  event.preventDefault();
  KEYS[key]();
});

// -- start ----------------------------------------------------------------------------

scene.onColours = (range) => showColours(scene, range);
scene.onView = () => showScaleBar(scene, stageMap);

/** The whole job on this page; only where `lodestar-live start` serves it. */
const job = new Job(scene, (verb, args = {}) => {
  if (!connection.command(verb, args)) job.refuse(`${verb}: not connected`);
});

const connection = new Connection({
  onParts: takeParts,
  onReply(reply) {
    if (!reply.ok) job.refuse(reply.error);
    if (!reply.ok) showReply(reply.error, "bad");
    else if (reply.verb === "retrain") showReply("training a new model…", ""); // its outcome is an event
    else if ((run.verbs ?? []).includes(reply.verb)) showReply(`${reply.verb}: done`, "good");
  },
  onState(state) {
    if (state === "lost") {
      if (!isEnded()) setState("lost", "viewer's server lost, retrying…");
    }
    else if (!isEnded()) setState("waiting", "waiting for a run");
  },
  wish: () => (run.kind === "recorded" ? { frame: player.frame, since: shownFrame } : {}),
});
$("empty-text").textContent = "Start a run, for example with “lodestar-live demo”; it appears here by itself.";

/** What tests and benches read. */
window.lodestar = {
  job,
  get nUpdates() { return nUpdates; },
  get updatesPerSecond() { return updateTimes.length / 2; },
  get frame() { return shownFrame; },
  get imageFrame() { return imageFrame; },
  scene,
  charts,
  player,
};
