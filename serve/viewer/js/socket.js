// A scene's live pictures over a WebSocket: a camera goes out as JSON, its picture comes back. Who gets none asks in
// another way, which also says what is wrong; after a few failures in a row, the socket is not tried again.

const MOST_FAILURES = 3;

export class SceneSocket {
  failures = 0;

  constructor(api, path) {
    this.api = api;
    this.path = path;
  }

  /** The picture of one view, or null. The next is asked for only when this one has come. */
  async ask(request) {
    if (this.failures >= MOST_FAILURES) return null;
    const picture = await new Promise((resolve) => {
      this.answer = resolve;
      try {
        this.send(JSON.stringify(request));
      } catch {
        resolve(null); // the browser forbids it
      }
    });
    this.answer = undefined;
    this.failures = picture ? 0 : this.failures + 1;
    return picture;
  }

  send(text) {
    if (this.socket) {
      this.socket.send(text);
      return;
    }
    const address = new URL(`${this.path}/stream`, location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(address, protocols(this.api.key));
    this.socket = socket;
    socket.onopen = () => socket.send(text);
    socket.onmessage = (event) => {
      if (event.data instanceof Blob) this.answer?.(event.data);
      else this.end(socket); // an error; the view would go on, but which picture answers what would be lost
    };
    socket.onclose = () => this.end(socket);
  }

  end(socket) {
    if (this.socket !== socket) return;
    this.close();
    this.answer?.(null);
  }

  close() {
    const socket = this.socket;
    this.socket = undefined;
    socket?.close();
  }
}

// Scripts cannot set headers of a WebSocket: the key travels among the protocols, in base64 for addresses.
function protocols(key) {
  if (!key) return ["argus"];
  const bytes = String.fromCharCode(...new TextEncoder().encode(key));
  return ["argus", `argus.key.${btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "")}`];
}
