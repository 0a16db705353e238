// Pictures drawn by the server, for browsers that cannot draw the scene and for scenes that they cannot hold. One view
// is on its way at a time, and the next is whatever the camera shows by then, so nothing queues up.

import { SceneSocket } from "./socket.js";

const MOST_PIXELS = 1600 * 1200;
const CALM_AFTER_MS = 160;
const BUSY = new Set([429, 503, 504]);
const MOST_TRIES = 4;
const RETRY_MS = 500;
// While the camera moves: half as wide and high, and of a radiance field a part of the samples.
const MOVING = { share: 0.5, quality: 70, effort: 0.2 };
const CALM = { share: 1, quality: 92, effort: 1 };

export class ServerDrawing {
  mode = "server";
  version = 0;
  calm = false;
  done = { version: -1, full: false };
  waiting = [];
  time = 0;

  /**
   * @param path of the scene in the API.
   * @param onError called with why there is no picture.
   */
  constructor(canvas, api, path, onError) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.api = api;
    this.path = path;
    this.onError = onError;
    this.socket = new SceneSocket(api, path);
  }

  resize(width, height) {
    [this.width, this.height] = [width, height];
  }

  /** Shows a view, soon: small while it keeps changing, then in full. */
  show(view, time = this.time) {
    [this.view, this.time] = [view, time];
    this.version += 1;
    this.calm = false;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.calm = true;
      this.draw();
    }, CALM_AFTER_MS);
    this.draw();
  }

  /** The canvas, with the shown view on it in full. */
  frame() {
    return new Promise((resolve, reject) => {
      this.waiting.push({ resolve, reject });
      this.draw();
    });
  }

  get upToDate() {
    return this.done.version === this.version && (this.done.full || !this.calm);
  }

  async draw() {
    if (this.drawing) return;
    this.drawing = true;
    while (!this.closed && (this.waiting.length > 0 || !this.upToDate)) {
      const waiters = this.waiting.splice(0);
      const { version } = this;
      const full = this.calm || waiters.length > 0;
      const error = await this.attempt(full ? CALM : MOVING);
      this.done = { version, full: full || error !== null };
      if (error) this.onError(error);
      for (const waiter of waiters) {
        if (error) waiter.reject(error);
        else waiter.resolve(this.canvas);
      }
    }
    this.drawing = false;
  }

  // Null, or why there is no picture: a server that has no room now is asked again for a while.
  async attempt(manner) {
    for (let tries = 1; ; tries += 1) {
      try {
        this.paint(await createImageBitmap(await this.ask(manner)));
        return null;
      } catch (error) {
        if (!BUSY.has(error.status) || tries === MOST_TRIES || this.closed) return error;
        await new Promise((resolve) => setTimeout(resolve, tries * RETRY_MS));
      }
    }
  }

  async ask(manner) {
    const share = Math.min(1, Math.sqrt(MOST_PIXELS / (this.width * this.height))) * manner.share;
    const request = {
      camera: { look_at: this.view },
      width: Math.max(16, Math.round(this.width * share)),
      height: Math.max(16, Math.round(this.height * share)),
      quality: manner.quality,
      effort: manner.effort,
      time_s: this.time,
    };
    const picture = await this.socket.ask(request);
    if (picture) return picture;
    return (await this.api.post(`${this.path}/render`, { ...request, format: "jpeg" }, "image/jpeg")).blob();
  }

  paint(bitmap) {
    if (this.canvas.width !== this.width || this.canvas.height !== this.height) {
      [this.canvas.width, this.canvas.height] = [this.width, this.height];
    }
    this.context.imageSmoothingQuality = "high";
    this.context.drawImage(bitmap, 0, 0, this.width, this.height);
    bitmap.close();
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    this.socket.close();
  }
}
