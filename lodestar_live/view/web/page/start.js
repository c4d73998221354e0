// The whole job on the page: steps beside the picture, from the microscope to the table.
//
// The server holds the job's state and sends it whole; this file draws it and asks for
// changes. Nothing is remembered here that a reload would lose, but the view.

import { verdictOf } from "./verdict.js";

const $ = (name) => document.getElementById(name);
const NAMES = { running: "A running Micro-Manager", headless: "An installed Micro-Manager", demo: "The demo microscope" };
const MARK_PX = 24; // side of a click's square while the crop is still to be estimated

export class Job {
  /** send(verb, args) asks the server; the answer comes as a new state. */
  constructor(scene, send) {
    Object.assign(this, { scene, send });
    this.state = null;
    this.open = "microscope";
    this.cursor = null; // {y, x}: where the keyboard would click
    this.candidates = null;
    this.found = null;
    this.isSliding = false;
    this.isDrawing = false; // the next drag draws the travel box
    this.drawn = null;
    this.backend = null; // chosen here, not connected yet
  }

  get isPreparing() {
    return this.state?.phase === "prepare";
  }

  // -- what arrives --------------------------------------------------------------

  async take(state) {
    if (!this.state) await this.build();
    const before = this.state;
    this.state = state;
    const suggested = this.suggest(before, state);
    if (suggested) this.show(suggested);
    document.body.dataset.phase = state.phase;
    document.body.classList.toggle("armed", state.settings.control.armed);
    this.scene.ringDetections = state.phase === "prepare";
    this.scene.onDraw = state.phase === "prepare" ? (context) => this.draw(context) : null;
    this.refresh();
    this.scene.requestDraw();
  }

  takeRows(part) {
    this[part.topic] = part.rows; // "candidates" or "found"
    this.scene.detections = this.found;
  }

  forgetFound() {
    this.candidates = this.found = this.scene.detections = null;
  }

  takeReport(part) {
    URL.revokeObjectURL(this.picture);
    this.picture = URL.createObjectURL(new Blob([part.bytes], { type: "image/png" }));
    $("report-picture").querySelector("img").src = this.picture;
    $("report-picture").hidden = false;
  }

  /** What the server refused, where one looks for it. */
  refuse(text) {
    if (!this.state) return;
    $("said").textContent = text;
    $("said").className = "bad";
  }

  /** Which step comes next, when the job has moved on by itself. */
  suggest(before, state) {
    if (state.phase !== before?.phase) {
      if (state.phase === "running") return "run";
      if (state.phase === "report") return "report";
      if (before) return state.model ? "run" : "particle";
    }
    if (!before) return state.model ? "run" : state.has_snapshot ? "particle" : "microscope";
    if (state.has_snapshot && !before.has_snapshot) return "microscope";
    return null;
  }

  // -- building --------------------------------------------------------------------

  async build() {
    const style = Object.assign(document.createElement("link"), { rel: "stylesheet", href: "start.css" });
    document.head.append(style);
    const rail = Object.assign(document.createElement("nav"), { id: "job" });
    rail.setAttribute("aria-label", "The job, step by step");
    rail.innerHTML = await (await fetch("start.html")).text(); // our own file
    document.querySelector("main").prepend(rail);
    for (const [id, text] of [["wheel", ""], ["armed", "STAGE ARMED"]]) {
      const chip = Object.assign(document.createElement("span"), { id, textContent: text, hidden: true });
      chip.className = "state";
      chip.setAttribute("role", "status");
      $("source").after(chip);
    }
    this.listen();
    addHelp();
    this.scene.resize();
    $("snapshot-note").textContent = "The image is the snapshot that was trained on.";
    document.querySelector("#empty .big").textContent = "No microscope yet";
    $("empty-text").textContent = "Choose one on the left and press Connect; its picture appears here.";
  }

  listen() {
    for (const button of document.querySelectorAll(".step h2 button")) {
      button.addEventListener("click", () => this.show(button.closest(".step").dataset.step));
    }
    const clicks = {
      connect: () => this.connect(), "look-around": () => this.send("look_around"), disconnect: () => this.send("disconnect"),
      watch: () => this.watch(), snap: () => this.send("snap"),
      unclick: () => this.send("unclick"), "clear-clicks": () => this.send("clear_clicks"),
      train: () => this.train(), "own-threshold": () => this.send("threshold", {}),
      calibrate: () => this.send("calibrate"), "box-set": () => this.setBox(),
      "box-draw": () => this.toggleDrawing(), "box-view": () => this.boxOfView(),
      "arm-stage": () => this.arm(), begin: () => this.begin(), end: () => this.send("end"),
      export: () => this.export(), again: () => this.send("again"),
      "open-run": () => $("runs").value && this.send("open_run", { run: $("runs").value }),
      "cancel-work": () => this.send("cancel"), "show-settings": () => this.showSettings(),
      "show-commands": () => this.showCommands(), "report-picture": () => showPicture(this.picture),
    };
    for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", act);
    $("exposure").addEventListener("change", () => this.send("expose", { exposure_ms: readNumber("exposure") }));
    $("threshold").addEventListener("input", () => this.slide());
    $("threshold").addEventListener("change", () => this.settle());
    $("follow-on").addEventListener("change", (event) => this.send("set_up", { follow: event.target.checked }));
    for (const id of ["run-name", "n-frames", "pixel-size", "lost", "focus", "rules"]) {
      $(id).addEventListener("change", () => this.send("set_up", this.runArgs(id)));
    }
  }

  show(step) {
    this.open = step;
    for (const section of document.querySelectorAll(".step")) {
      const isOpen = section.dataset.step === step;
      section.classList.toggle("open", isOpen);
      section.querySelector("h2 button").setAttribute("aria-expanded", isOpen);
    }
  }

  // -- drawing the state --------------------------------------------------------------

  refresh() {
    const { state } = this;
    this.refreshMicroscope(state);
    this.refreshParticle(state);
    this.refreshStage(state);
    this.refreshRun(state);
    this.refreshReport(state);
    this.refreshWork(state);
    this.refreshHeader(state);
    const idle = !state.busy && state.phase === "prepare";
    const may = {
      connect: idle, disconnect: idle && state.microscope, snap: idle && state.microscope, watch: idle && state.microscope, exposure: idle && state.microscope,
      train: idle && state.has_snapshot && !state.is_live, unclick: idle && state.clicks.length, "clear-clicks": idle && state.clicks.length,
      calibrate: idle && state.microscope, "box-set": idle, "box-draw": idle && state.calibration && !state.calibration.refused,
      "box-view": idle && state.calibration && !state.calibration.refused, "follow-on": idle, "arm-stage": idle,
      begin: idle && state.model, end: state.phase === "running" && !state.busy, export: state.phase === "report" && !state.busy,
      again: state.phase === "report" && !state.busy, "open-run": !state.busy && state.phase !== "running",
    };
    for (const [id, is] of Object.entries(may)) $(id).disabled = !is;
  }

  refreshMicroscope(state) {
    const chosen = this.backend ?? (state.microscope ? state.settings.microscope.backend : state.choices.find((c) => c.is_here)?.backend);
    const key = JSON.stringify([state.choices, chosen]);
    if (key !== this.backendsKey) {
      this.backendsKey = key;
      this.buildBackends(state.choices, chosen);
    }
    $("camera").hidden = !state.microscope;
    say("microscope", state.microscope?.camera ?? "", Boolean(state.microscope));
    $("watch").setAttribute("aria-pressed", state.is_live);
    $("watch").textContent = state.is_live ? "Stop live" : "Live image";
    put("exposure", state.microscope?.exposure_ms);
    const { low, high, saturated } = state.levels;
    const size = state.shape_px ? `${state.shape_px[1]} × ${state.shape_px[0]} px · ` : "";
    $("levels").textContent = high === undefined ? "" : `${size}${low} to ${high} counts${saturated > 0.0005 ? `, ${(100 * saturated).toFixed(1)} % saturated: expose less` : ""}`;
  }

  buildBackends(choices, chosen) {
    const field = $("backends");
    field.replaceChildren(field.querySelector("legend"), ...choices.map((choice) => {
      const label = document.createElement("label");
      label.classList.toggle("here", choice.is_here);
      const radio = Object.assign(document.createElement("input"), { type: "radio", name: "backend", value: choice.backend, checked: choice.backend === chosen });
      radio.addEventListener("change", () => {
        this.backend = choice.backend;
        this.buildForm(choice);
      });
      const [name, text] = [document.createElement("b"), document.createElement("small")];
      name.textContent = NAMES[choice.backend];
      text.textContent = choice.text;
      label.append(radio, name, text);
      return label;
    }));
    this.buildForm(choices.find((choice) => choice.backend === chosen));
  }

  buildForm(choice) {
    const fields = { running: [["port", "port", "number"]], headless: [["app_path", "its folder", "text"], ["config_file", "its configuration (.cfg)", "text"]] }[choice?.backend] ?? [];
    $("backend-form").replaceChildren(...fields.map(([name, text, type]) => {
      const label = Object.assign(document.createElement("label"), { textContent: text });
      const input = Object.assign(document.createElement("input"), { id: `backend-${name}`, type, value: choice[name] ?? (name === "config_file" ? choice.configs?.[0] ?? "" : "") });
      label.append(input);
      return label;
    }));
  }

  refreshParticle(state) {
    const n = state.clicks.length;
    say("particle", state.model ? `${state.n_found} found` : n ? `${n} clicked` : "", Boolean(state.model));
    $("clicks").replaceChildren(...state.clicks.map((click) => {
      const line = document.createElement("li");
      line.className = click.wanted ? "" : "not";
      line.textContent = `${click.wanted ? "this" : "not this"}: y ${click.y_px.toFixed(1)}, x ${click.x_px.toFixed(1)}`;
      return line;
    }));
    $("train").textContent = state.model ? "Train again" : n ? "Train" : "Train (choose a particle for me)";
    $("model").hidden = !state.model;
    if (!state.model || this.isSliding) return;
    const { lowest, highest, own_threshold: own } = state.model;
    const chosen = state.settings.detection.threshold;
    Object.assign($("threshold"), { min: lowest, max: highest });
    $("threshold").value = chosen ?? own;
    this.sayThreshold(chosen ?? own, state.n_found, chosen === null);
  }

  sayThreshold(value, n, isOwn) {
    $("threshold-value").textContent = `${value.toFixed(2)}${isOwn ? " (model’s own)" : ""}`;
    $("n-found").textContent = `${n} ${n === 1 ? "particle" : "particles"}`;
  }

  refreshStage(state) {
    const { control } = state.settings;
    const verdict = state.calibration;
    say("stage", control.armed ? "armed" : verdict ? (verdict.refused ? "refused" : control.follow ? "follow, not armed" : "calibrated") : "optional", Boolean(verdict && !verdict.refused));
    $("verdict").hidden = !verdict;
    const key = JSON.stringify(verdict);
    if (verdict && key !== this.verdictKey) $("verdict").replaceChildren(...verdictOf(verdict));
    this.verdictKey = key;
    for (const axis of ["y", "x"]) [0, 1].forEach((k) => put(`box-${axis}${k}`, control.limits?.[`${axis}_um`][k]));
    $("follow-on").checked = control.follow;
    $("arm-stage").setAttribute("aria-pressed", control.armed);
    $("arm-stage").textContent = control.armed ? "Disarm" : "Arm the stage…";
    $("arm-hint").textContent = control.armed ? "The next run moves the stage, in the box only."
      : "Unarmed, a run only notes what it would move.";
    $("box-draw").setAttribute("aria-pressed", this.isDrawing);
  }

  refreshRun(state) {
    const isRunning = state.phase === "running";
    say("run", isRunning ? "under way" : "", state.phase === "report");
    $("run-form").hidden = isRunning;
    $("begin").hidden = isRunning;
    $("end").hidden = !isRunning;
    $("run-facts").textContent = isRunning ? (state.run?.folder ?? "starting…")
      : state.model ? `Recorded into ${state.folder}` : "First train a model (step 2).";
    const { settings } = state;
    put("run-name", settings.name);
    put("n-frames", settings.acquisition.n_frames);
    put("pixel-size", settings.microscope.pixel_size_um);
    put("lost", settings.control.lost);
    put("focus", settings.control.focus);
    put("rules", settings.control.rules.join("\n"));
  }

  refreshReport(state) {
    const { report } = state;
    say("report", report ? `${report.n_tracks} tracks` : "", Boolean(report));
    const rows = report ? [
      ["frames processed", `${report.counts.processed} of ${report.counts.received}`], ["frames/s", report.fps?.toFixed(1) ?? "–"],
      ["tracks", report.n_tracks], [`of ${report.min_frames} frames or more`, report.n_long], ["ended", report.reason ? `${report.status}: ${report.reason}` : report.status],
    ] : [];
    $("report-numbers").replaceChildren(...rows.flatMap(([name, value]) => ["dt", "dd"].map((tag, k) => Object.assign(document.createElement(tag), { textContent: [name, value][k] }))));
    if (!report) $("report-picture").hidden = true;
    $("exports").replaceChildren(...(report?.exports ?? []).map((text) => Object.assign(document.createElement("li"), { textContent: text })));
    const key = state.runs.join();
    if (key !== this.runsKey) $("runs").replaceChildren(...state.runs.map((name) => new Option(name)));
    this.runsKey = key;
    $("runs-row").hidden = !state.runs.length;
  }

  refreshWork({ busy, said }) {
    const left = busy?.left_s > 1 ? ` · ${busy.left_s.toFixed(0)} s left` : "";
    $("said").textContent = busy ? `${busy.what}: ${busy.text}${left}` : said.text;
    $("said").className = busy ? "" : said.kind;
    const bar = $("work-progress");
    bar.hidden = !busy;
    if (busy?.fraction === null) bar.removeAttribute("value");
    else if (busy) bar.value = busy.fraction;
    $("cancel-work").hidden = !busy || !["training", "calibrating", "exporting", "drawing"].includes(busy.what);
  }

  refreshHeader({ phase, wheel, busy, settings, is_live: isLive }) {
    $("armed").hidden = !settings.control.armed;
    if (phase === "prepare") {
      $("state").className = `state ${busy ? "waiting" : isLive ? "live" : "recorded"}`;
      $("state").textContent = busy ? `${busy.what}…` : isLive ? "live image" : "preparing";
    }
    const chip = $("wheel");
    chip.hidden = wheel.n_pages < 2;
    const who = wheel.is_mine ? `you steer (${wheel.me})` : wheel.holder ? `${wheel.holder} steers` : "nobody steers";
    if (chip.dataset.who === who) return;
    chip.dataset.who = who;
    chip.className = `state ${wheel.is_mine ? "live" : "ended"}`;
    const take = Object.assign(document.createElement("button"), { id: "take-wheel", textContent: "Take the wheel" });
    take.addEventListener("click", () => this.send("take_wheel", {}));
    chip.replaceChildren(who, ...(wheel.is_mine ? [] : [take]));
  }

  // -- what is asked for ---------------------------------------------------------------

  connect() {
    const backend = document.querySelector("#backends input:checked")?.value;
    const args = { backend };
    if (backend === "running") args.port = readNumber("backend-port");
    if (backend === "headless") Object.assign(args, { app_path: $("backend-app_path").value, config_file: $("backend-config_file").value });
    this.send("connect", args);
  }

  watch() {
    this.send("watch", { on: !this.state.is_live });
  }

  train() {
    const args = { size_px: readNumber("size"), steps: readNumber("steps"), quality: $("quality").value };
    this.send("train", args);
  }

  slide() {
    this.isSliding = true;
    const least = Number($("threshold").value);
    if (this.candidates) this.scene.detections = above(this.candidates, least);
    this.sayThreshold(least, this.scene.detections?.y_px.length ?? 0, false);
    this.scene.requestDraw();
  }

  settle() {
    this.isSliding = false;
    this.send("threshold", { threshold: Number($("threshold").value) });
  }

  setBox() {
    const ends = (axis) => [readNumber(`box-${axis}0`), readNumber(`box-${axis}1`)];
    this.send("box", { y_um: ends("y"), x_um: ends("x") });
  }

  boxOfView() {
    const [height, width] = this.state.shape_px;
    this.send("draw_box", { y_px: [0, height - 1], x_px: [0, width - 1] });
  }

  toggleDrawing() {
    this.isDrawing = !this.isDrawing;
    document.body.classList.toggle("drawing", this.isDrawing);
    this.refresh();
  }

  arm() {
    if (this.state.settings.control.armed) {
      this.send("arm_stage", { on: false });
      return;
    }
    const { limits } = this.state.settings.control;
    const box = limits ? `y ${limits.y_um.join(" to ")} µm, x ${limits.x_um.join(" to ")} µm` : "not set yet";
    ask("Arm the stage?", `In the next run the stage moves by itself, within the travel box only: ${box}. STOP, or the key S, holds it at any time.`, "Arm", () => this.send("arm_stage", { on: true }));
  }

  runArgs(id) {
    const values = {
      "run-name": { name: $("run-name").value || null }, "n-frames": { n_frames: readNumber("n-frames") }, "pixel-size": { pixel_size_um: readNumber("pixel-size") },
      lost: { lost: $("lost").value }, focus: { focus: $("focus").value }, rules: { rules: $("rules").value.split("\n").map((line) => line.trim()).filter(Boolean) },
    };
    return values[id];
  }

  begin() {
    this.send("begin");
  }

  export() {
    const least = readNumber("min-frames");
    this.send("export", least === null ? { to: $("export-to").value } : { to: $("export-to").value, min_frames: least });
  }

  showSettings() {
    const dialog = sheet("Settings of the next run", this.state.toml || "# all defaults\n");
    const save = Object.assign(document.createElement("button"), { textContent: "Save as a file", className: "go" });
    save.addEventListener("click", () => {
      this.send("save");
      dialog.close();
    });
    dialog.querySelector("form").prepend(save);
  }

  showCommands() {
    const lines = this.state.commands.length ? this.state.commands : ["# nothing was run yet"];
    sheet("The same by hand", lines.join("\n\n"));
  }

  // -- hands on the picture --------------------------------------------------------------

  /** A click on the picture while preparing. */
  click(y, x) {
    this.send("click", { y_px: y, x_px: x, wanted: $("wanted").checked });
    this.show("particle");
  }

  drag(pointer, sx, sy) {
    if (!this.isDrawing) return false;
    this.drawn = [this.scene.toFrame(pointer.x0, pointer.y0), this.scene.toFrame(sx, sy)];
    this.scene.requestDraw();
    return true;
  }

  drop() {
    if (!this.drawn) return;
    const [[y0, x0], [y1, x1]] = this.drawn;
    this.drawn = null;
    this.toggleDrawing();
    this.send("draw_box", { y_px: [y0, y1], x_px: [x0, x1] });
  }

  /** True: the key was for the preparation. */
  key(key, event) {
    if (!this.state || this.state.phase === "running") return false; // the live page's own
    if (this.state.phase === "report" && key !== "e") return false;
    const step = event.shiftKey ? 10 : 1;
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (moves[key]) {
      const [height, width] = this.scene.shape ?? [512, 512];
      const at = this.cursor ?? { y: height / 2, x: width / 2 };
      this.cursor = { y: clamp(at.y + step * moves[key][0], height), x: clamp(at.x + step * moves[key][1], width) };
      this.scene.requestDraw();
      return true;
    }
    const presses = { v: "watch", p: "snap", t: "train", g: "begin", b: "box-draw", Backspace: "unclick", e: "export" };
    if (presses[key]) {
      if (!$(presses[key]).disabled) $(presses[key]).click();
      return true;
    }
    if (key === "n") {
      const other = $("wanted").checked ? "unwanted" : "wanted";
      $(other).checked = true;
      return true;
    }
    if ((key === "Enter" || key === " ") && this.cursor) {
      this.click(this.cursor.y, this.cursor.x);
      return true;
    }
    return false;
  }

  draw(context) {
    const side = this.state.settings.training.size_px ?? MARK_PX;
    for (const click of this.state.clicks) this.drawClick(context, click, side);
    if (this.cursor) drawCross(context, ...this.scene.toScreen(this.cursor.y, this.cursor.x));
    if (this.drawn) {
      const [[x0, y0], [x1, y1]] = this.drawn.map((at) => this.scene.toScreen(...at));
      context.strokeStyle = "#f0b429";
      context.lineWidth = 2;
      context.setLineDash([6, 5]);
      context.strokeRect(Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0));
      context.setLineDash([]);
    }
  }

  drawClick(context, click, side) {
    const [x, y] = this.scene.toScreen(click.y_px, click.x_px);
    const half = Math.max((side / 2) * this.scene.view.zoom, 9);
    context.lineWidth = 2.5;
    context.strokeStyle = click.wanted ? "#ff7a4d" : "#c58bff";
    context.strokeRect(x - half, y - half, 2 * half, 2 * half);
    if (click.wanted) return;
    context.beginPath(); // crossed out: not by its colour alone
    context.moveTo(x - half, y - half);
    context.lineTo(x + half, y + half);
    context.stroke();
  }
}

// -- small helpers -------------------------------------------------------------------------

const clamp = (value, size) => Math.min(Math.max(value, 0), size - 1);

function drawCross(context, x, y) {
  context.strokeStyle = "#ffffff";
  context.lineWidth = 1.5;
  context.beginPath();
  for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
    context.moveTo(x + 5 * dx, y + 5 * dy);
    context.lineTo(x + 13 * dx, y + 13 * dy);
  }
  context.stroke();
}

function above(rows, least) {
  const kept = [...rows.score.keys()].filter((i) => rows.score[i] >= least);
  return Object.fromEntries(Object.entries(rows).map(([name, values]) => [name, Float64Array.from(kept, (i) => values[i])]));
}

function readNumber(id) {
  const { value } = $(id);
  return value.trim() === "" ? null : Number(value);
}

/** Show a value in a field, unless somebody is writing there. */
function put(id, value) {
  const field = $(id);
  const text = value === null || value === undefined ? "" : String(value);
  if (document.activeElement !== field && field.value !== text) field.value = text;
}

function say(step, text, isDone) {
  const section = document.querySelector(`.step[data-step="${step}"]`);
  section.querySelector("em").textContent = text;
  section.classList.toggle("done", isDone);
}

function sheet(title, text) {
  const dialog = Object.assign(document.createElement("dialog"), { className: "sheet" });
  const [head, body, form] = ["h2", "pre", "form"].map((tag) => document.createElement(tag));
  head.textContent = title;
  body.textContent = text;
  body.tabIndex = 0; // scrolls by keys
  form.method = "dialog";
  form.className = "row";
  form.append(Object.assign(document.createElement("button"), { textContent: "Close" }));
  dialog.append(head, body, form);
  document.body.append(dialog);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.showModal();
  return dialog;
}

function ask(title, text, yes, act) {
  const dialog = sheet(title, text);
  dialog.querySelector("pre").replaceWith(Object.assign(document.createElement("p"), { textContent: text }));
  const button = Object.assign(document.createElement("button"), { textContent: yes, className: "stop", id: "yes" });
  button.addEventListener("click", act);
  dialog.querySelector("form").prepend(button);
}

function showPicture(url) {
  const dialog = sheet("Report", "");
  dialog.classList.add("picture");
  const image = Object.assign(document.createElement("img"), { src: url, alt: "Plots of the run" });
  dialog.querySelector("pre").replaceWith(image);
}

function addHelp() {
  const keys = [["V P", "live image, snap"], ["← ↑ → ↓", "move the cross (Shift: 10 px)"], ["Enter", "click there"], ["N", "“this” or “not this”"], ["Backspace", "take back the last click"], ["T G E", "train, start the run, export"], ["B", "draw the travel box"]];
  const rows = keys.map(([key, text]) => {
    const row = document.createElement("tr");
    const [a, b] = [document.createElement("td"), document.createElement("td")];
    a.append(...key.split(" ").flatMap((k) => [Object.assign(document.createElement("kbd"), { textContent: k }), " "]));
    b.textContent = text;
    row.append(a, b);
    return row;
  });
  document.querySelector("#help table").prepend(...rows);
}

