// What stands around the picture: texts, progress, errors, buttons and the dialog that asks for a key.

const element = (id) => document.getElementById(id);
const NOTE_MS = 4000;

export function showScene(name, scene) {
  const gaussians = `${scene.gaussians.toLocaleString("en")} Gaussians`;
  document.title = `${name} · Argus`;
  element("name").textContent = name;
  element("facts").textContent = scene.kind === "gaussians" ? gaussians : "Radiance field";
  element("attribution").textContent = scene.attribution;
  element("view").setAttribute("aria-label", `3D view of ${name}`);
}

export function showMode(text) {
  element("mode").textContent = text;
}

/** @param share of the work that is done, from 0 to 1, or null when nobody knows. */
export function showProgress(stage, share) {
  element("progress").hidden = false;
  element("stage").textContent = share === null ? stage : `${stage}: ${Math.round(100 * share)} %`;
  const bar = element("bar");
  if (share === null) bar.removeAttribute("value");
  else bar.value = share;
}

/** The picture is there. */
export function showButtons(moving) {
  element("progress").hidden = true;
  element("play").hidden = !moving;
  element("buttons").hidden = false;
}

/** An error that leaves nothing to look at. */
export function showFailure(message) {
  element("progress").hidden = true;
  element("buttons").hidden = true;
  element("error").textContent = message;
  element("error").hidden = false;
}

let noteTimer;

/** A line that goes by itself. */
export function note(message) {
  clearTimeout(noteTimer);
  element("note").textContent = message;
  element("note").hidden = false;
  noteTimer = setTimeout(() => (element("note").hidden = true), NOTE_MS);
}

/** Resolves to the key that was typed in. */
export function askForKey(reason) {
  const dialog = element("key-dialog");
  const input = element("key");
  element("key-reason").textContent = reason;
  input.value = "";
  dialog.oncancel = (event) => event.preventDefault();
  dialog.showModal();
  return new Promise((resolve) => {
    element("key-form").onsubmit = (event) => {
      event.preventDefault();
      dialog.close();
      resolve(input.value.trim());
    };
  });
}

/**
 * @param actions by the button's id; each has a key too.
 * @param keys from a key to the button's id.
 */
export function bindButtons(actions, keys) {
  for (const [id, action] of Object.entries(actions)) element(id).addEventListener("click", action);
  document.addEventListener("keydown", (event) => {
    const pressing = event.key === " " && event.target instanceof HTMLButtonElement;
    if (pressing || isTyping(event) || event.ctrlKey || event.metaKey || event.altKey) return;
    const button = element(keys[event.key.toLowerCase()] ?? "none");
    if (!button || button.hidden) return;
    event.preventDefault();
    button.click();
  });
}

/** Whether a key goes into a field, not to the view. */
export function isTyping(event) {
  return event.target instanceof Element && event.target.closest("input, dialog") !== null;
}

export function press(id, pressed) {
  element(id).setAttribute("aria-pressed", String(pressed));
}

export function toggleHelp() {
  const text = element("help-text");
  text.hidden = !text.hidden;
  element("help").setAttribute("aria-expanded", String(!text.hidden));
}

/** Offers a file for download. */
export function save(blob, filename) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = filename;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
