// Playing a recorded run: which frame is wished for, by the clock or by the slider.

export class Player {
  constructor(root, onChange) {
    this.root = root;
    this.onChange = onChange;
    this.index = 0;
    this.isPlaying = false;
    this.frames = [];
    const find = (name) => root.querySelector(name);
    [this.button, this.slider, this.when, this.speed] = ["#play", "#scrub", "#when", "#speed"].map(find);
    this.button.addEventListener("click", () => this.toggle());
    this.slider.addEventListener("input", () => {
      this.pause();
      this.goTo(Number(this.slider.value));
    });
  }

  open(run) {
    this.frames = run.frames;
    this.t = run.t_s;
    this.slider.max = Math.max(this.frames.length - 1, 0);
    this.root.hidden = false;
    this.goTo(0);
  }

  close() {
    this.pause();
    this.root.hidden = true;
  }

  get frame() {
    return this.frames[this.index] ?? 0;
  }

  goTo(index) {
    this.index = Math.min(Math.max(index, 0), Math.max(this.frames.length - 1, 0));
    this.slider.value = this.index;
    this.when.textContent = `frame ${this.frame} · ${(this.t[this.index] ?? 0).toFixed(2)} s`;
    this.onChange();
  }

  step(n) {
    this.pause();
    this.goTo(this.index + n);
  }

  toggle() {
    if (this.isPlaying) this.pause();
    else this.play();
  }

  play() {
    if (this.index >= this.frames.length - 1) this.goTo(0);
    this.isPlaying = true;
    this.button.textContent = "Pause";
    this.since = performance.now();
    this.from = this.t[this.index];
    requestAnimationFrame(() => this.tick());
  }

  pause() {
    this.isPlaying = false;
    this.button.textContent = "Play";
  }

  tick() {
    if (!this.isPlaying) return;
    const speed = Number(this.speed.value);
    const now = performance.now();
    this.from += ((now - this.since) / 1000) * speed;
    this.since = now;
    let index = this.index;
    while (index < this.frames.length - 1 && this.t[index + 1] <= this.from) index++;
    if (index !== this.index) this.goTo(index);
    if (index >= this.frames.length - 1) this.pause();
    else requestAnimationFrame(() => this.tick());
  }
}
