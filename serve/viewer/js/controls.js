// Pointer, touch, wheel and keys, as changes of a camera: orbiting moves around the target, flying turns on the spot.

import { looked, moved, orbited, subtract, length, zoomed } from "./camera.js";
import { isTyping } from "./panel.js";

const TURN_PER_HEIGHT = Math.PI;
const WHEEL = 0.0012;
const STEP = 1.1;
const KEY_TURN = 0.06;
const FASTER = 3;
const MOVES = {
  KeyW: [0, 0, 1],
  KeyS: [0, 0, -1],
  KeyA: [-1, 0, 0],
  KeyD: [1, 0, 0],
  KeyQ: [0, -1, 0],
  KeyE: [0, 1, 0],
};
const TURNS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

export class Controls {
  flying = false;
  pointers = new Map();
  held = new Set();

  /**
   * @param element that is dragged on.
   * @param change called with a function from the camera to its successor.
   * @param pace distance that is flown in a second, in the scene's unit.
   */
  constructor(element, change, pace) {
    this.element = element;
    this.change = change;
    this.pace = pace;
    const on = (name, handler, target = element) =>
      target.addEventListener(name, handler.bind(this), { passive: false });
    on("pointerdown", this.press);
    on("pointermove", this.drag);
    on("pointerup", this.release);
    on("pointercancel", this.release);
    on("wheel", this.wheel);
    on("keydown", this.keyDown, document);
    on("keyup", this.keyUp, document);
    on("blur", this.letGo, window);
    on("contextmenu", (event) => event.preventDefault());
  }

  press(event) {
    this.element.setPointerCapture(event.pointerId);
    this.element.focus({ preventScroll: true });
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY, button: event.button });
  }

  release(event) {
    this.pointers.delete(event.pointerId);
  }

  drag(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, pointer]) => pointer);
    const now = { ...before, x: event.clientX, y: event.clientY };
    this.pointers.set(event.pointerId, now);
    const [dx, dy] = [now.x - before.x, now.y - before.y];
    if (others.length > 0) {
      const apart = (pointer) => Math.hypot(pointer.x - others[0].x, pointer.y - others[0].y) || 1;
      this.approach(apart(now) / apart(before));
      this.slide(dx / 2, dy / 2);
    } else if (before.button === 2 || before.button === 1 || event.shiftKey) {
      this.slide(dx, dy);
    } else {
      const perPixel = TURN_PER_HEIGHT / this.element.clientHeight;
      this.turn(dx * perPixel, dy * perPixel);
    }
  }

  // What is under the pointer stays under it, at the target's distance.
  slide(dx, dy) {
    this.change((view) => {
      const distance = length(subtract(view.target, view.eye));
      const perPixel = (2 * distance * Math.tan((view.fov_deg * Math.PI) / 360)) / this.element.clientHeight;
      return moved(view, -dx * perPixel, dy * perPixel, 0);
    });
  }

  // The scene follows the pointer when orbiting; the gaze follows it when flying.
  turn(right, down) {
    if (this.flying) this.change((view) => looked(view, -right / 2, -down / 2));
    else this.change((view) => orbited(view, -right, down));
  }

  wheel(event) {
    event.preventDefault();
    const amount = Math.max(-200, Math.min(200, event.deltaY * (event.deltaMode === 1 ? 30 : 1)));
    this.approach(Math.exp(-amount * WHEEL));
  }

  // The target comes so many times nearer when orbiting; flying goes past it.
  approach(times) {
    if (this.flying) this.change((view) => moved(view, 0, 0, Math.log(times) * this.pace));
    else this.change((view) => zoomed(view, 1 / times));
  }

  keyDown(event) {
    if (isTyping(event) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (MOVES[event.code]) {
      this.held.add(event.code);
      this.faster = event.shiftKey;
      this.advance ??= requestAnimationFrame((now) => this.step(now, now));
    } else if (TURNS[event.key]) {
      const [right, up] = TURNS[event.key];
      if (this.flying) this.change((view) => looked(view, -right * KEY_TURN, up * KEY_TURN));
      else this.change((view) => orbited(view, right * KEY_TURN, up * KEY_TURN));
    } else if (event.key === "+" || event.key === "=") {
      this.approach(STEP);
    } else if (event.key === "-") {
      this.approach(1 / STEP);
    } else {
      return;
    }
    event.preventDefault();
  }

  keyUp(event) {
    this.held.delete(event.code);
    this.faster = event.shiftKey;
  }

  letGo() {
    this.held.clear();
    this.pointers.clear();
  }

  step(now, before) {
    this.advance = undefined;
    if (this.held.size === 0) return;
    const distance = this.pace * (this.faster ? FASTER : 1) * Math.min(0.1, (now - before) / 1000);
    const [right, top, forward] = [...this.held]
      .map((code) => MOVES[code])
      .reduce((sum, move) => sum.map((value, i) => value + move[i] * distance), [0, 0, 0]);
    this.change((view) => moved(view, right, top, forward));
    this.advance = requestAnimationFrame((next) => this.step(next, now));
  }
}
