// One scene being looked at: the camera, who draws it, and the address that keeps the view.

import { fromHash, homeView, isPossible, toHash } from "./camera.js";
import { Controls } from "./controls.js";
import * as panel from "./panel.js";

const HASH_AFTER_MS = 250;
const MOST_PIXEL_RATIO = 2;

export class Viewer {
  playing = false;

  /**
   * @param stage the element that the picture fills.
   * @param scene what the API says of it.
   * @param drawing a `SplatDrawing` or a `ServerDrawing`.
   */
  constructor(stage, name, scene, drawing) {
    this.stage = stage;
    this.name = name;
    this.scene = scene;
    this.drawing = drawing;
    this.view = fromHash(location.hash, scene.up) ?? this.home();
    this.controls = new Controls(stage, (next) => this.show(next(this.view)), scene.bounds.radius || 1);
    window.addEventListener("hashchange", () => this.show(fromHash(location.hash, scene.up) ?? this.home()));
    new ResizeObserver(() => this.resize()).observe(stage);
    this.use(drawing);
  }

  home() {
    return homeView(this.scene.bounds, this.scene.up, this.stage.clientWidth / this.stage.clientHeight);
  }

  /** Goes on with this way of drawing. */
  use(drawing) {
    if (this.drawing !== drawing) this.drawing.close();
    this.drawing = drawing;
    this.size = undefined;
    this.resize();
  }

  resize() {
    const ratio = Math.min(MOST_PIXEL_RATIO, window.devicePixelRatio || 1);
    const size = [this.stage.clientWidth, this.stage.clientHeight].map((side) => Math.max(1, Math.round(side * ratio)));
    if (String(size) === String(this.size)) return;
    this.size = size;
    this.drawing.resize(...size);
    this.drawing.show(this.view);
  }

  show(view) {
    if (!isPossible(view)) return;
    this.view = view;
    this.drawing.show(view);
    clearTimeout(this.hashTimer);
    this.hashTimer = setTimeout(() => this.keep(), HASH_AFTER_MS);
  }

  /** Puts the view into the address, so that a copy of it leads here. */
  keep() {
    clearTimeout(this.hashTimer);
    history.replaceState(null, "", `#${toHash(this.view)}`);
  }

  fly(flying) {
    this.controls.flying = flying;
    panel.press("fly", flying);
    panel.press("orbit", !flying);
  }

  async share() {
    this.keep();
    try {
      await navigator.clipboard.writeText(location.href);
      panel.note("The link to this view is copied.");
    } catch {
      panel.note(`The link to this view stands in the address bar: ${location.href}`);
    }
  }

  async screenshot() {
    const canvas = await this.drawing.frame();
    canvas.toBlob((blob) => panel.save(blob, `${this.name}.png`), "image/png");
  }

  /** A moving scene plays until it is paused. */
  play(playing) {
    panel.press("play", playing);
    this.playing = playing;
    let before;
    const step = (now) => {
      if (!this.playing) return;
      const time = (this.drawing.time + (now - (before ?? now)) / 1000) % this.scene.motion_s;
      before = now;
      this.drawing.show(this.view, time);
      requestAnimationFrame(step);
    };
    if (playing) requestAnimationFrame(step);
  }
}
