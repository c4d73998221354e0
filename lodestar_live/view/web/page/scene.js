// The picture: camera image below, tracks above, and the view that maps px to screen.

import { colourRows } from "./colours.js";
import { Tails } from "./tails.js";

const MANY = 2500; // above: short tails, no ids, small marks
const TAIL = 40;
const SHORT_TAIL = 6;
const REACH = 14; // screen px within which the pointer finds a track

export class Scene {
  constructor(stage) {
    this.stage = stage;
    this.image = stage.querySelector("#image");
    this.overlay = stage.querySelector("#overlay");
    this.context = this.overlay.getContext("2d");
    this.shape = null; // [height, width] of the frame, px
    this.tails = new Tails();
    this.tracks = null;
    this.detections = null;
    this.targetId = null;
    this.selectedId = null;
    this.hoverId = null;
    this.show = { detections: true, tails: true, ids: true };
    this.colour = "id";
    this.shift = [0, 0];
    this.clicked = null; // {y_px, x_px, frame} clicked where no track is
    this.prediction = null; // [y, x] px: where the controller expects its target
    this.travelBox = null; // corners [[y, x], ...] in frame px
    this.marks = []; // extra marks: {y, x, size}
    this.view = { y: 0, x: 0, zoom: 1, isFitted: true };
    new ResizeObserver(() => this.resize()).observe(stage);
    this.resize();
  }

  // -- what is shown ---------------------------------------------------------

  async setImage(part) {
    this.showImage(part, await decode(part));
  }

  /** Draw a decoded picture at once, so that its marks can come in the same step. */
  showImage(part, bitmap) {
    const [width, height] = [bitmap.displayWidth ?? bitmap.width, bitmap.displayHeight ?? bitmap.height];
    if (this.image.width !== width || this.image.height !== height) {
      this.image.width = width;
      this.image.height = height;
    }
    this.image.getContext("2d", { alpha: false }).drawImage(bitmap, 0, 0);
    // the publisher averages blocks of whole pixels: image px per frame px is 1 / factor
    this.imageScale = 1 / Math.max(1, Math.round(Math.max(...part.shape_px) / Math.max(width, height)));
    bitmap.close();
    this.setShape(part.shape_px);
    this.place();
  }

  setShape(shape) {
    if (!shape) return;
    if (this.shape && this.shape[0] === shape[0] && this.shape[1] === shape[1]) return;
    this.shape = shape;
    if (this.view.isFitted) this.fit();
  }

  setTracks(rows, shift) {
    this.tracks = rows;
    this.shift = shift;
    this.tails.push(rows, shift);
    if (!this.shape) this.setShape(spanOf(rows));
  }

  clear() {
    this.tails.clear();
    this.tracks = this.detections = this.motions = null;
    this.targetId = this.selectedId = this.hoverId = this.clicked = this.prediction = null;
    this.requestDraw();
  }

  // -- view --------------------------------------------------------------------

  resize() {
    const ratio = window.devicePixelRatio || 1;
    this.width = this.stage.clientWidth;
    this.height = this.stage.clientHeight;
    this.overlay.width = Math.round(this.width * ratio);
    this.overlay.height = Math.round(this.height * ratio);
    this.ratio = ratio;
    if (this.view.isFitted) this.fit();
    else this.place();
    this.requestDraw();
  }

  fit() {
    const [height, width] = this.shape ?? [512, 512];
    this.view.zoom = Math.min(this.width / width, this.height / height) || 1;
    this.view.y = (height - 1) / 2;
    this.view.x = (width - 1) / 2;
    this.view.isFitted = true;
    this.place();
  }

  /** Zoom by a factor, keeping the screen point (sx, sy) where it is. */
  zoomAt(factor, sx = this.width / 2, sy = this.height / 2) {
    const [y, x] = this.toFrame(sx, sy);
    this.view.zoom = Math.min(Math.max(this.view.zoom * factor, 0.05), 80);
    const [y2, x2] = this.toFrame(sx, sy);
    this.view.y += y - y2;
    this.view.x += x - x2;
    this.view.isFitted = false;
    this.place();
  }

  pan(dx, dy) {
    this.view.x -= dx / this.view.zoom;
    this.view.y -= dy / this.view.zoom;
    this.view.isFitted = false;
    this.place();
  }

  toScreen(y, x) {
    const { zoom } = this.view;
    return [(x - this.view.x) * zoom + this.width / 2, (y - this.view.y) * zoom + this.height / 2];
  }

  toFrame(sx, sy) {
    const { zoom } = this.view;
    return [(sy - this.height / 2) / zoom + this.view.y, (sx - this.width / 2) / zoom + this.view.x];
  }

  /** Move the image under the overlay; pixel [0, 0] has its centre at (0, 0). */
  place() {
    const [sx, sy] = this.toScreen(-0.5, -0.5);
    const scale = this.view.zoom / (this.imageScale || 1);
    this.image.style.transform = `translate(${sx}px, ${sy}px) scale(${scale})`;
    this.onView?.();
    this.requestDraw();
  }

  // -- finding ------------------------------------------------------------------

  /** Index of the track nearest to a screen point, -1 when none is near. */
  find(sx, sy) {
    const rows = this.tracks;
    if (!rows) return -1;
    const [y, x] = this.toFrame(sx, sy);
    let best = (REACH / this.view.zoom) ** 2;
    let found = -1;
    for (let i = 0; i < rows.track_id.length; i++) {
      const away = (rows.y_px[i] - y) ** 2 + (rows.x_px[i] - x) ** 2;
      if (away < best) {
        best = away;
        found = i;
      }
    }
    return found;
  }

  rowOf(id) {
    return this.tracks && id !== null ? this.tracks.track_id.indexOf(id) : -1;
  }

  // -- drawing -------------------------------------------------------------------

  requestDraw() {
    if (this.isAsked) return;
    this.isAsked = true;
    requestAnimationFrame(() => {
      this.isAsked = false;
      this.draw();
    });
  }

  draw() {
    const { context, ratio } = this;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    if (this.travelBox) this.drawTravelBox();
    if (this.detections && this.show.detections) this.drawDetections();
    if (this.tracks) this.drawTracks();
    if (this.clicked) this.drawPlace();
    this.onDraw?.(context);
    this.nDrawn = (this.nDrawn ?? 0) + 1;
  }

  drawTravelBox() {
    const { context } = this;
    context.beginPath();
    for (const [y, x] of this.travelBox) context.lineTo(...this.toScreen(y, x));
    context.closePath();
    context.setLineDash([6, 5]);
    context.strokeStyle = "#f0b429";
    context.lineWidth = 1.5;
    context.stroke();
    context.setLineDash([]);
  }

  drawDetections() {
    const { context } = this;
    const { y_px: ys, x_px: xs } = this.detections;
    const path = new Path2D();
    if (this.ringDetections) {
      this.drawRings(ys, xs);
      return;
    }
    const r = ys.length > MANY ? 2 : 3;
    for (let i = 0; i < ys.length; i++) {
      const [sx, sy] = this.toScreen(ys[i], xs[i]);
      path.moveTo(sx - r, sy);
      path.lineTo(sx + r, sy);
      path.moveTo(sx, sy - r);
      path.lineTo(sx, sy + r);
    }
    context.strokeStyle = "#ffffffb0";
    context.lineWidth = 1;
    context.stroke(path);
  }

  /** Rings stay visible on bright particles; for the picking page. */
  drawRings(ys, xs) {
    const path = new Path2D();
    const r = Math.min(Math.max(4 * this.view.zoom, 8), 20);
    for (let i = 0; i < ys.length; i++) {
      const [sx, sy] = this.toScreen(ys[i], xs[i]);
      path.moveTo(sx + r, sy);
      path.arc(sx, sy, r, 0, 2 * Math.PI);
    }
    this.strokeAll([path], ["#7fe0ff"], 1.8, 1);
  }

  drawTracks() {
    const rows = this.tracks;
    const n = rows.track_id.length;
    const isMany = n > MANY;
    const { colours, levels, range } = colourRows(rows, this.colour);
    this.onColours?.(range);
    const marks = colours.map(() => new Path2D());
    const tails = colours.map(() => new Path2D());
    const missed = new Path2D();
    const isCrowd = isMany && this.view.zoom < 1.5; // dots only
    const r = isCrowd ? 1.5 : isMany ? 2.5 : Math.min(Math.max(4 * this.view.zoom, 7), 16);
    const margin = 40;
    const back = (y, x) => this.toScreen(y - this.shift[0], x - this.shift[1]);
    for (let i = 0; i < n; i++) {
      const [sx, sy] = this.toScreen(rows.y_px[i], rows.x_px[i]);
      if (sx < -margin || sy < -margin || sx > this.width + margin || sy > this.height + margin) continue;
      const path = rows.missed_frames?.[i] > 0 ? missed : marks[levels[i]];
      if (isMany) path.rect(sx - r, sy - r, 2 * r, 2 * r);
      else {
        path.moveTo(sx + r, sy);
        path.arc(sx, sy, r, 0, 2 * Math.PI);
        const turn = (rows.angle_deg?.[i] * Math.PI) / 180; // NaN: round, or not measured
        if (Number.isFinite(turn)) {
          path.moveTo(sx - r * Math.cos(turn), sy - r * Math.sin(turn));
          path.lineTo(sx + r * Math.cos(turn), sy + r * Math.sin(turn));
        }
      }
      if (this.show.tails && !isCrowd) {
        this.tails.trace(tails[levels[i]], rows.track_id[i], isMany ? SHORT_TAIL : TAIL, back);
      }
    }
    this.strokeAll(tails, colours, 1 / this.ratio, 0.9); // one device px: the quick path
    this.strokeAll(marks, colours, 1.6, 1);
    this.context.setLineDash([3, 3]);
    this.strokeAll([missed], ["#9aa7b5"], 1.3, 1);
    this.context.setLineDash([]);
    if (this.show.ids && !isMany) this.drawIds(rows, r);
    this.drawChosen(rows, r);
  }

  strokeAll(paths, colours, width, alpha) {
    const { context } = this;
    context.lineWidth = width;
    context.globalAlpha = alpha;
    paths.forEach((path, i) => {
      context.strokeStyle = colours[i];
      context.stroke(path);
    });
    context.globalAlpha = 1;
  }

  drawIds(rows, r) {
    const { context } = this;
    if (rows.track_id.length > 400 && this.view.zoom < 2) return; // unreadable
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = "#e6edf3";
    for (let i = 0; i < rows.track_id.length; i++) {
      const [sx, sy] = this.toScreen(rows.y_px[i], rows.x_px[i]);
      if (sx < 0 || sy < 0 || sx > this.width || sy > this.height) continue;
      context.fillText(rows.track_id[i], sx + r + 2, sy - r + 4);
    }
  }

  /** The followed target with its prediction, the selected and the hovered track. */
  drawChosen(rows, r) {
    const { context } = this;
    const target = this.rowOf(this.targetId);
    if (target >= 0) {
      const [sy, sx] = [rows.y_px[target], rows.x_px[target]];
      const [x, y] = this.toScreen(sy, sx);
      this.drawBrackets(x, y, r + 8, "#ff7a4d");
      // where the controller expects it; without one, five frames on by its own velocity
      const [px, py] = this.toScreen(...(this.prediction ?? [
        sy + 5 * (rows.vy_px_per_frame?.[target] || 0),
        sx + 5 * (rows.vx_px_per_frame?.[target] || 0),
      ]));
      context.strokeStyle = "#ff7a4d";
      context.lineWidth = 2;
      context.beginPath();
      context.moveTo(x, y);
      context.lineTo(px, py);
      context.moveTo(px + 3, py);
      context.arc(px, py, 3, 0, 2 * Math.PI);
      context.stroke();
    }
    for (const [id, colour] of [[this.selectedId, "#ffffff"], [this.hoverId, "#ffffff90"]]) {
      const i = this.rowOf(id);
      if (i < 0) continue;
      const [x, y] = this.toScreen(rows.y_px[i], rows.x_px[i]);
      context.strokeStyle = colour;
      context.lineWidth = 2;
      context.beginPath();
      context.arc(x, y, r + 4, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  /** The place clicked: a cross with an open middle. */
  drawPlace() {
    const { context } = this;
    const [x, y] = this.toScreen(this.clicked.y_px, this.clicked.x_px);
    context.strokeStyle = "#ffffff";
    context.lineWidth = 2;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + 4 * dx, y + 4 * dy);
      context.lineTo(x + 12 * dx, y + 12 * dy);
    }
    context.stroke();
  }

  drawBrackets(x, y, half, colour) {
    const { context } = this;
    const arm = half * 0.5;
    context.strokeStyle = colour;
    context.lineWidth = 2.5;
    context.beginPath();
    for (const [h, v] of [[-1, -1], [1, -1], [1, 1], [-1, 1]]) {
      context.moveTo(x + h * (half - arm), y + v * half);
      context.lineTo(x + h * half, y + v * half);
      context.lineTo(x + h * half, y + v * (half - arm));
    }
    context.stroke();
  }
}

/** Decode a picture; a Blob takes a round trip through another process, so not first. */
export async function decode({ bytes, encoding }) {
  const type = `image/${encoding}`;
  if (!window.ImageDecoder) return createImageBitmap(new Blob([bytes], { type }));
  const decoder = new ImageDecoder({ data: bytes, type });
  const { image } = await decoder.decode();
  decoder.close();
  return image;
}

/** A frame size that holds all tracks, for streams without images. */
function spanOf(rows) {
  if (!rows.track_id.length) return null;
  const high = (values) => values.reduce((a, b) => Math.max(a, b), 1);
  return [Math.ceil(high(rows.y_px)) + 10, Math.ceil(high(rows.x_px)) + 10];
}
