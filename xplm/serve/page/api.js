// The server's interface. Where it asks for an API key, the key stays in this tab's sessionStorage.

import { events } from "./sse.js";

const KEY = "xplm-key";
const BUSY_TRIES = 40;
const BUSY_MS = 150;

/** A response that is no success. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let askForKey = async () => null;

/** What to do where the server wants a key: a function that gives one, or null. */
export function on_key_needed(ask) {
  askForKey = ask;
}

async function request(method, path, body, signal) {
  while (true) {
    const headers = {};
    const key = sessionStorage.getItem(KEY);
    if (key) headers.authorization = `Bearer ${key}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    const response = await fetch(path, {
      method, headers, signal, cache: "no-store", credentials: "omit",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    if (response.ok) return response;
    const message = await messageOf(response);
    if (response.status !== 401) throw new Refusal(response.status, message);
    const given = await askForKey(key !== null);
    if (given === null) throw new Refusal(401, message);
    sessionStorage.setItem(KEY, given);
  }
}

async function messageOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered ${response.status}.`;
  }
}

const json = async (...given) => (await request(...given)).json();
const at = (id, what = "") => `/v1/sessions/${encodeURIComponent(id)}${what}`;

/** Try again while the conversation is held by a reply that is being stopped. */
async function patiently(call) {
  for (let n = 0; ; n += 1) {
    try {
      return await call();
    } catch (error) {
      if (error.status !== 409 || n >= BUSY_TRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, BUSY_MS));
    }
  }
}

export const models = async () => (await json("GET", "/v1/models")).data;
export const list = async () => (await json("GET", "/v1/sessions")).data;
export const start = (fields) => json("POST", "/v1/sessions", fields);
export const get = (id) => json("GET", at(id));
export const change = (id, fields) => patiently(() => json("PATCH", at(id), fields));
export const remove = (id) => patiently(() => json("DELETE", at(id)));
export const fork = (id, turns) => json("POST", at(id, "/fork"), { turns });
export const rollback = (id, turns) => patiently(() => json("POST", at(id, "/rollback"), { turns }));
export const append = (id, turn) => patiently(() => json("POST", at(id, "/append"), turn));
export const fragility = (id, turn) => patiently(() => json("POST", at(id, "/fragility"), { turn }));

/** Send a message; the chunks of its answer. */
export async function* send(id, body, signal) {
  const call = () => request("POST", at(id, "/send"), { ...body, stream: true }, signal);
  const response = await patiently(call);
  for await (const chunk of events(response.body)) {
    if (chunk.error) throw new Refusal(response.status, chunk.error.message);
    yield chunk;
  }
}
