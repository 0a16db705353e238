// The page: reads the scene's name from its address, decides who draws it, and ties the buttons to it.

import { Api } from "./api.js";
import * as panel from "./panel.js";
import { ServerDrawing } from "./stream.js";
import { Viewer } from "./viewer.js";

// Without a GPU, a browser draws larger scenes slower than they come from the server.
const MOST_WITHOUT_GPU = 50_000;
const SOFTWARE = /swiftshader|llvmpipe|softpipe|basic render|software/i;

const name = nameIn(location.pathname);
const path = `/v1/scenes/${encodeURIComponent(name)}`;
const stage = document.getElementById("view");
const api = new Api(panel.askForKey);

async function start() {
  panel.showProgress("Asking for the scene", null);
  const scene = await api.json(path);
  panel.showScene(name, scene);
  const viewer = new Viewer(stage, name, scene, await openDrawing(scene));
  bind(viewer);
  await viewer.drawing.frame();
  panel.showButtons(scene.motion_s > 0);
  if (scene.motion_s > 0) viewer.play(true);
  return viewer;
}

/** The scene's name at the end of an address; where its percent-encoding is no text, as it stands there. */
function nameIn(pathname) {
  const last = pathname.split("/").pop();
  try {
    return decodeURIComponent(last);
  } catch {
    return last;
  }
}

/** Draws in this browser if it can and the scene is one that it can hold, else has the server draw. */
async function openDrawing(scene) {
  const reason = whyServer(scene);
  if (reason !== null) return openServer(reason);
  try {
    return await openSplats(scene);
  } catch (error) {
    console.warn(error);
    return openServer(`this browser could not (${error.message})`);
  }
}

/** Null when the browser is to draw. `?render=server` and `?render=browser` decide where both could. */
function whyServer(scene) {
  const wish = new URLSearchParams(location.search).get("render");
  if (wish === "server") return "as the address asks";
  if (scene.kind !== "gaussians") return "radiance fields are drawn there";
  if (scene.motion_s > 0) return "moving scenes are drawn there";
  const renderer = webGLRenderer();
  if (renderer === null) return "this browser has no WebGL 2";
  const small = scene.gaussians <= MOST_WITHOUT_GPU || wish === "browser";
  return !small && SOFTWARE.test(renderer) ? "this browser has no GPU" : null;
}

/** What draws WebGL 2 here, in words; null when nothing does. */
function webGLRenderer() {
  const gl = document.createElement("canvas").getContext("webgl2");
  if (gl === null) return null;
  const info = gl.getExtension("WEBGL_debug_renderer_info");
  const renderer = gl.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : gl.RENDERER);
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return renderer;
}

async function openSplats(scene) {
  panel.showProgress("Loading the viewer", null);
  const { SplatDrawing } = await import("./splats.js");
  const file = `${path}/export?format=spz&digest=${scene.digest}`;
  const bytes = await api.bytes(file, (share) => panel.showProgress("Loading the scene", share));
  panel.showProgress("Unpacking", null);
  const lost = async () => (await ready).use(openServer("this browser took its drawing surface away"));
  const drawing = await SplatDrawing.open(newCanvas(), scene, bytes, lost);
  panel.showMode("Drawn by this browser");
  return drawing;
}

function openServer(reason) {
  panel.showMode(`Drawn by the server: ${reason}`);
  return new ServerDrawing(newCanvas(), api, path, (error) => panel.note(error.message));
}

// A canvas that has been WebGL's cannot be drawn on in another way, so each way gets its own.
function newCanvas() {
  const canvas = document.createElement("canvas");
  stage.replaceChildren(canvas);
  return canvas;
}

function bind(viewer) {
  const actions = {
    orbit: () => viewer.fly(false),
    fly: () => viewer.fly(true),
    play: () => viewer.play(!viewer.playing),
    reset: () => viewer.show(viewer.home()),
    shot: () => viewer.screenshot().catch((error) => panel.note(error.message)),
    share: () => viewer.share(),
    help: panel.toggleHelp,
  };
  panel.bindButtons(actions, { o: "orbit", f: "fly", " ": "play", 0: "reset", p: "shot", l: "share", "?": "help" });
}

function explained(error) {
  if (error.code === "scene_not_found") return `There is no scene named “${name}” here.`;
  return `The scene cannot be shown: ${error.message}`;
}

const ready = start();
ready.catch((error) => panel.showFailure(explained(error)));

// For scripts and tests: `ready` is kept when the first picture is there; `frame` gives the present view as the
// address of a PNG.
window.argus = {
  get ready() {
    return ready.then(() => true);
  },
  get mode() {
    return ready.then((viewer) => viewer.drawing.mode);
  },
  setCamera: async (lookAt) => {
    const viewer = await ready;
    viewer.show({ ...viewer.view, up: viewer.scene.up, ...lookAt });
  },
  frame: async () => (await (await ready).drawing.frame()).toDataURL("image/png"),
};
