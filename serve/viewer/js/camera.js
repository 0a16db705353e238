// Cameras as the API has them: {eye, target, up, fov_deg}, in the scene's own coordinates. Everything here is a pure
// function of cameras, so both ways of drawing share it. Angles are radians unless a name says degrees.

export const FOV_DEG = 50;
const HOME_AZIMUTH = (35 * Math.PI) / 180;
const HOME_ELEVATION = (20 * Math.PI) / 180;
const MARGIN = 1.05;
const STEEPEST = (89 * Math.PI) / 180;

export const add = (a, b) => a.map((value, i) => value + b[i]);
export const subtract = (a, b) => a.map((value, i) => value - b[i]);
export const scale = (a, factor) => a.map((value) => value * factor);
export const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
export const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
export const length = (a) => Math.hypot(...a);
export const unit = (a) => scale(a, 1 / (length(a) || 1));

/** `vector` turned around the unit `axis` (Rodrigues' formula). */
export function turned(vector, axis, angle) {
  const along = scale(axis, dot(axis, vector) * (1 - Math.cos(angle)));
  return add(add(scale(vector, Math.cos(angle)), scale(cross(axis, vector), Math.sin(angle))), along);
}

/** The unit vector at right angles to `up` from which azimuths are counted; the server has the same. */
function sideOf(up) {
  const start = Math.abs(up[2]) > 0.9 ? [1, 0, 0] : [0, 0, 1];
  return unit(subtract(start, scale(up, dot(start, up))));
}

/** The view that the server draws when no camera is named: the whole scene, a little from above. */
export function homeView(bounds, up, aspect) {
  const axis = unit(up);
  const side = sideOf(axis);
  const level = add(scale(side, Math.cos(HOME_AZIMUTH)), scale(cross(axis, side), Math.sin(HOME_AZIMUTH)));
  const away = add(scale(level, Math.cos(HOME_ELEVATION)), scale(axis, Math.sin(HOME_ELEVATION)));
  const half = (FOV_DEG * Math.PI) / 360;
  const narrower = Math.min(half, Math.atan(Math.tan(half) * aspect));
  const distance = (MARGIN * (bounds.radius || 1)) / Math.sin(narrower);
  return { eye: add(bounds.centre, scale(away, distance)), target: [...bounds.centre], up: axis, fov_deg: FOV_DEG };
}

/** Forward, right and the picture's top as unit vectors. */
export function axes(view) {
  const forward = unit(subtract(view.target, view.eye));
  const right = unit(cross(forward, view.up));
  return { forward, right, top: cross(right, forward) };
}

// A direction after a turn around `up` and a tilt, which stops short of the poles.
function swung(direction, up, across, tilt) {
  const axis = unit(up);
  const level = turned(direction, axis, across);
  const elevation = Math.asin(Math.max(-1, Math.min(1, dot(unit(level), axis))));
  const wanted = Math.max(-STEEPEST, Math.min(STEEPEST, elevation + tilt));
  const right = unit(cross(level, axis));
  return turned(level, right, wanted - elevation);
}

/** The camera moved on a sphere around its target. */
export function orbited(view, across, tilt) {
  const arm = swung(subtract(view.eye, view.target), view.up, across, tilt);
  return { ...view, eye: add(view.target, arm) };
}

/** The camera turned where it stands. */
export function looked(view, across, tilt) {
  const arm = swung(subtract(view.target, view.eye), view.up, across, tilt);
  return { ...view, target: add(view.eye, arm) };
}

/** The camera's distance to its target, times `factor`. */
export function zoomed(view, factor) {
  return { ...view, eye: add(view.target, scale(subtract(view.eye, view.target), factor)) };
}

/** The camera and its target moved along the camera's own axes: right, top, forward, in the scene's unit. */
export function moved(view, right, top, forward) {
  const own = axes(view);
  const step = add(add(scale(own.right, right), scale(own.top, top)), scale(own.forward, forward));
  return { ...view, eye: add(view.eye, step), target: add(view.target, step) };
}

/** What keeps a view in an address: `eye=1,2,3&target=0,0,0&up=0,-1,0&fov=50`. */
export function toHash(view) {
  const list = (vector) => vector.map((value) => Number(value.toPrecision(7))).join(",");
  const fov = Number(view.fov_deg.toPrecision(5));
  return `eye=${list(view.eye)}&target=${list(view.target)}&up=${list(view.up)}&fov=${fov}`;
}

/** The view in an address, or null when there is none that makes sense. */
export function fromHash(hash, up) {
  const fields = new URLSearchParams(hash.replace(/^#/, ""));
  const vector = (name) => {
    const values = (fields.get(name) ?? "").split(",").map((text) => (text.trim() === "" ? NaN : Number(text)));
    return values.length === 3 && values.every(Number.isFinite) ? values : null;
  };
  const view = {
    eye: vector("eye"),
    target: vector("target"),
    up: vector("up") ?? up,
    fov_deg: fields.has("fov") ? Number(fields.get("fov")) : FOV_DEG,
  };
  return view.eye && view.target && isPossible(view) ? view : null;
}

/** Whether a camera can stand so: the server refuses the others. */
export function isPossible(view) {
  const sight = subtract(view.target, view.eye);
  const breadth = length(cross(unit(sight), unit(view.up)));
  return length(sight) > 0 && breadth > 1e-6 && view.fov_deg > 0 && view.fov_deg < 180;
}
