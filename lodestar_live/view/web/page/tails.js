// Where each track has been lately, in sample pixels (the stage's motion taken out).

const LENGTH = 40;
const STEP_PX = 2;

export class Tails {
  constructor() {
    this.clear();
  }

  clear() {
    this.byId = new Map(); // id -> {y: Float32Array, x, n, next, seen}
    this.turn = 0;
  }

  /** Add one frame's tracks; shift is (y, x) px added to positions. */
  push(rows, shift, from = 0, to = rows.track_id.length) {
    this.turn++;
    for (let i = from; i < to; i++) {
      const id = rows.track_id[i];
      let tail = this.byId.get(id);
      if (!tail) {
        tail = { y: new Float32Array(LENGTH), x: new Float32Array(LENGTH), n: 0, next: 0 };
        this.byId.set(id, tail);
      }
      tail.y[tail.next] = rows.y_px[i] + shift[0];
      tail.x[tail.next] = rows.x_px[i] + shift[1];
      tail.next = (tail.next + 1) % LENGTH;
      tail.n = Math.min(tail.n + 1, LENGTH);
      tail.turn = this.turn;
    }
    if (this.turn % 16 === 0) this.forgetTheDead();
  }

  forgetTheDead() {
    for (const [id, tail] of this.byId) {
      if (this.turn - tail.turn > 16) this.byId.delete(id);
    }
  }

  /**
   * Add the newest `count` points of a tail to a path; place(y, x) -> [sx, sy]. Points
   * less than two screen pixels on are left out: half the work, and nobody sees it.
   */
  trace(path, id, count, place) {
    const tail = this.byId.get(id);
    if (!tail || tail.n < 2) return;
    const n = Math.min(tail.n, count);
    let px = 0;
    let py = 0;
    for (let k = 0; k < n; k++) {
      const at = (tail.next - n + k + 2 * LENGTH) % LENGTH;
      const [sx, sy] = place(tail.y[at], tail.x[at]);
      if (k === 0) path.moveTo(sx, sy);
      else if (k < n - 1 && Math.abs(sx - px) + Math.abs(sy - py) < STEP_PX) continue;
      else path.lineTo(sx, sy);
      px = sx;
      py = sy;
    }
  }
}
