// The way to the node: requests, its errors in words, the token, and what is asked again and again.
//
// Every failure becomes a NodeError, whose message can be shown as it is. Polling slows down while the node does not
// answer, and says so once.

const TIMEOUT_MS = 10_000;
/** The longest time between two attempts to reach a node that does not answer. */
const BACKOFF_MAX_MS = 10_000;
const TOKEN_KEY = "preload-observer-token";

export class NodeError extends Error {
  /** `code`: the node's word for it, or `unreachable`. */
  constructor(code, message, body) {
    super(message);
    this.code = code;
    this.body = body;
  }
}

let askForToken = null;
/** The dialog that is open, which all requests wait for that need a token. */
let asking = null;
/** What goes on by itself does not ask again what the user has declined. */
let isDeclined = false;

/** `ask(wasRefused)` lets the user enter a token; it resolves to one, or to null. */
export function onTokenNeeded(ask) {
  askForToken = ask;
}

/** Lets requests ask for the token again. */
export function forgetDecline() {
  isDeclined = false;
}

async function enteredToken(wasRefused) {
  asking ??= askForToken(wasRefused).finally(() => (asking = null));
  const token = await asking;
  isDeclined = token === null;
  if (token !== null) sessionStorage.setItem(TOKEN_KEY, token);
  return token;
}

export const get = (path, options) => send("GET", path, undefined, options);
export const post = (path, body, options) => send("POST", path, body, options);
export const remove = (path, body, options) => send("DELETE", path, body, options);

async function send(method, path, body, options = {}) {
  const token = sessionStorage.getItem(TOKEN_KEY);
  let response;
  try {
    response = await fetch(path, {
      method,
      body: body === undefined ? undefined : JSON.stringify(body),
      headers: {
        ...(body === undefined ? {} : { "Content-Type": "application/json" }),
        ...(token ? { Authorization: `Bearer ${token}` } : {}),
      },
      signal: AbortSignal.timeout(options.timeoutMs ?? TIMEOUT_MS),
      cache: "no-store",
    });
  } catch (error) {
    const late = error.name === "TimeoutError";
    throw new NodeError("unreachable", late ? "The node did not answer in time." : "The node cannot be reached.");
  }
  if (response.status === 401) {
    const isNewer = sessionStorage.getItem(TOKEN_KEY) !== token;
    const mayAsk = method !== "GET" || !isDeclined;
    if (isNewer || (mayAsk && (await enteredToken(token !== null)) !== null)) return send(method, path, body, options);
    throw new NodeError("unauthorized", "This needs the node's token.");
  }
  let answer = null;
  try {
    answer = await response.json();
  } catch {
    if (response.ok) throw new NodeError("unreadable", `The node's answer to ${path} is not JSON.`);
  }
  if (!response.ok) {
    const said = answer?.error;
    throw new NodeError(said?.code ?? `http_${response.status}`, said?.message ?? `The node answered with status ${response.status}.`, answer);
  }
  return answer;
}

/** Something that is done again and again, and can be hurried. */
export class Poll {
  /** `once()` does it, and resolves to the milliseconds until the next time. */
  constructor(once, { onLost, onFound }) {
    Object.assign(this, { once, onLost, onFound, failures: 0, timer: 0, isRunning: false, isHurried: false });
  }

  async run() {
    if (this.isRunning) {
      this.isHurried = true;
      return;
    }
    clearTimeout(this.timer);
    this.isRunning = true;
    let wait;
    try {
      wait = await this.once();
      this.failures = 0;
      this.onFound?.();
    } catch (error) {
      this.failures += 1;
      wait = Math.min(500 * 2 ** this.failures, BACKOFF_MAX_MS);
      this.onLost?.(error, wait);
    }
    this.isRunning = false;
    const next = this.isHurried ? 0 : wait;
    this.isHurried = false;
    this.timer = setTimeout(() => this.run(), next);
  }
}
