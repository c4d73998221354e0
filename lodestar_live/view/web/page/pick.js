// Choosing the training particle on the snapshot.

import { Connection } from "./connection.js";
import { watchPointer } from "./pointer.js";
import { Scene } from "./scene.js";

const $ = (name) => document.getElementById(name);
const PREVIEW_PX = 40; // side shown while the crop is still to be estimated

const scene = new Scene($("stage"));
scene.ringDetections = true;
let at = null; // {y, x}, frame px: the last one clicked
let before = []; // those clicked before it, which Shift keeps
let size = null; // side, px; null: estimated by the trainer
let state = { busy: false, can_try: false };
let isOver = false;

// -- the mark -------------------------------------------------------------------

function setMark(y, x) {
  const [height, width] = scene.shape;
  at = { y: Math.min(Math.max(y, 0), height - 1), x: Math.min(Math.max(x, 0), width - 1) };
  refresh();
}

function addMark(y, x) {
  if (at) before.push(at);
  setMark(y, x);
}

function startAgain(y, x) {
  before = [];
  setMark(y, x);
}

function setSize(value) {
  size = value === null ? null : Math.min(Math.max(Math.round(value), 5), 1024);
  $("size").value = size ?? "";
  refresh();
}

function refresh() {
  const others = before.length ? `, the last of ${before.length + 1}` : "";
  $("at").textContent = at ? `${at.y.toFixed(1)}, ${at.x.toFixed(1)} px${others}` : "not chosen";
  $("use").disabled = !at || state.busy || isOver;
  $("try").disabled = !at || state.busy || !state.can_try || isOver;
  $("try").hidden = !state.can_try;
  drawPreview();
  scene.requestDraw();
}

function drawPreview() {
  const context = $("preview").getContext("2d");
  const { width } = $("preview");
  context.fillStyle = "#000";
  context.fillRect(0, 0, width, width);
  if (!at) return;
  const side = size ?? PREVIEW_PX;
  context.imageSmoothingEnabled = false;
  context.drawImage(
    scene.image, at.x + 0.5 - side / 2, at.y + 0.5 - side / 2, side, side, 0, 0, width, width,
  );
}

scene.onDraw = (context) => {
  for (const mark of before) drawMark(context, mark);
  if (at) drawMark(context, at);
};

function drawMark(context, mark) {
  const [x, y] = scene.toScreen(mark.y, mark.x);
  const half = ((size ?? PREVIEW_PX) / 2) * scene.view.zoom;
  context.strokeStyle = "#ff7a4d";
  context.lineWidth = 2;
  context.setLineDash(size ? [] : [5, 5]);
  context.strokeRect(x - half, y - half, 2 * half, 2 * half);
  context.setLineDash([]);
  context.beginPath();
  for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
    context.moveTo(x + 3 * dx, y + 3 * dy);
    context.lineTo(x + 9 * dx, y + 9 * dy);
  }
  context.stroke();
}

watchPointer(scene, {
  onClick: (sx, sy, event) => (event.shiftKey ? addMark : startAgain)(...scene.toFrame(sx, sy)),
  onDrag(pointer, sx, sy, event) {
    if (event.shiftKey || event.buttons === 4) return false; // pan
    startAgain(...scene.toFrame(pointer.x0, pointer.y0));
    setSize((2 * Math.max(Math.abs(sx - pointer.x0), Math.abs(sy - pointer.y0))) / scene.view.zoom);
    return true;
  },
});

// -- buttons and keys -------------------------------------------------------------

const choice = () => ({
  places: [...before, at].map(({ y, x }) => ({ y_px: y, x_px: x })), size_px: size,
});
const send = (verb) => at && connection.command(verb, choice());

$("size").addEventListener("input", () => setSize($("size").value ? Number($("size").value) : null));
for (const name of ["contrast", "brightness"]) {
  $(name).addEventListener("input", () => {
    scene.image.style.filter = `brightness(${$("brightness").value}) contrast(${$("contrast").value})`;
  });
}
const BUTTONS = {
  "zoom-in": () => scene.zoomAt(1.4), "zoom-out": () => scene.zoomAt(1 / 1.4), fit: () => scene.fit(),
  try: () => send("try"), use: () => send("use"), cancel: () => connection.command("cancel"),
};
for (const [name, action] of Object.entries(BUTTONS)) $(name).addEventListener("click", action);

function nudge(dy, dx) {
  const [height, width] = scene.shape;
  if (!at) setMark(height / 2, width / 2);
  else setMark(at.y + dy, at.x + dx);
}
const KEYS = {
  ArrowLeft: (k) => nudge(0, -k), ArrowRight: (k) => nudge(0, k), ArrowUp: (k) => nudge(-k, 0), ArrowDown: (k) => nudge(k, 0),
  "[": () => setSize((size ?? PREVIEW_PX) - 2), "]": () => setSize((size ?? PREVIEW_PX) + 2),
  "+": () => scene.zoomAt(1.4), "=": () => scene.zoomAt(1.4), "-": () => scene.zoomAt(1 / 1.4), 0: () => scene.fit(),
  Enter: () => !$("use").disabled && send("use"),
};
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, button") || event.ctrlKey || event.metaKey || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key](event.shiftKey ? 10 : 1);
});

// -- the server's side ----------------------------------------------------------------

const HANDLERS = {
  image: (part) => scene.setImage(part),
  detections: (part) => {
    scene.detections = part.rows;
  },
  state(part) {
    state = part;
    if (part.busy) scene.detections = null;
    $("progress").hidden = !part.busy;
    $("progress").value = part.fraction;
    say(part.text, part.failed ? "bad" : part.busy ? "" : "good");
    if (!isOver) setState("live", part.busy ? "training…" : "ready");
  },
};

function say(text, kind) {
  $("reply").textContent = text;
  $("reply").className = kind;
}

function setState(kind, text) {
  $("state").className = `state ${kind}`;
  $("state").textContent = text;
}

const connection = new Connection({
  async onParts(parts) {
    for (const part of parts) await HANDLERS[part.topic]?.(part);
    refresh();
  },
  onReply(reply) {
    if (!reply.ok) say(reply.error, "bad");
    else if (reply.verb !== "try") {
      isOver = true;
      setState("ended", reply.verb === "use" ? "chosen; you may close this page" : "cancelled");
      connection.close();
      refresh();
    }
  },
  onState(name) {
    if (name === "lost" && !isOver) setState("lost", "the program has ended or is not answering");
  },
});

window.lodestar = { scene, get at() { return at; }, get size() { return size; } };
