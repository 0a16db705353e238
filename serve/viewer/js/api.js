// The server's API, with a key when it wants one. The key lives in sessionStorage: in this tab, until it is closed.

const KEY = "argus-api-key";

/** An error that the server described. */
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export class Api {
  /** @param askForKey called with the server's reason when it wants a key; resolves to what was typed in. */
  constructor(askForKey) {
    this.askForKey = askForKey;
  }

  get key() {
    return sessionStorage.getItem(KEY);
  }

  /** A response that is good; asks for a key, as often as it takes, when the server refuses. */
  async fetch(path, options = {}) {
    for (;;) {
      const headers = { ...options.headers, ...(this.key ? { "x-api-key": this.key } : {}) };
      const response = await fetch(path, { ...options, headers, credentials: "same-origin" });
      if (response.ok) return response;
      const error = await described(response);
      if (error.status !== 401) throw error;
      sessionStorage.removeItem(KEY);
      sessionStorage.setItem(KEY, await this.askForKey(error.message));
    }
  }

  async json(path) {
    return (await this.fetch(path)).json();
  }

  /** A file's bytes; `onProgress` hears the share that has arrived, or null where the length is unknown. */
  async bytes(path, onProgress) {
    const response = await this.fetch(path);
    const total = response.headers.has("content-encoding") ? 0 : Number(response.headers.get("content-length"));
    const parts = [];
    let arrived = 0;
    const reader = response.body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      arrived += value.length;
      onProgress(total ? arrived / total : null);
    }
    return new Uint8Array(await new Blob(parts).arrayBuffer());
  }

  async post(path, body, accept) {
    const headers = { "content-type": "application/json", accept };
    return this.fetch(path, { method: "POST", body: JSON.stringify(body), headers });
  }
}

async function described(response) {
  const fallback = `The server answered ${response.status}.`;
  const body = await response.json().catch(() => ({}));
  return new ApiError(response.status, body.error?.code ?? "unknown", body.error?.message ?? fallback);
}
