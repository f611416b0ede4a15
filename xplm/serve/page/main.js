// The page: which chat is open, and what happens to it.

import * as api from "./api.js";
import { Announcer } from "./announce.js";
import { ask, find } from "./dom.js";
import { ask_for_key } from "./key.js";
import { Settings } from "./settings.js";
import { Side } from "./side.js";
import { draft_of, keep_stopped, reply } from "./stream.js";
import { TurnView } from "./turns.js";

const TITLE_CHARS = 60;
const NEAR_END = 80; // pixels within which the view follows a reply

const message = find("message");
const turns = find("turns");
const announcer = new Announcer(find("spoken"));
const actions = { retry, edit, fork: fork_at, rollback, measure };
const side = new Side(find("chats"), { open, rename, fork, remove });
const settings = new Settings(find("settings"), change_system);

let sessions = [];
let current = null; // the chat that is open, as the server has it
let views = [];
let running = null; // the AbortController of a reply

function fresh() {
  return { id: null, title: "", system: settings.system, turns: [] };
}

/** Do something; say why where it fails. */
async function attempt(work) {
  find("problem").hidden = true;
  try {
    return await work();
  } catch (error) {
    find("problem").textContent = error instanceof TypeError ? "The server cannot be reached." : error.message;
    find("problem").hidden = false;
    if (!(error instanceof TypeError || error instanceof api.Refusal)) console.error(error);
    return undefined;
  }
}

async function refresh() {
  sessions = await api.list();
  side.show(sessions, current.id);
}

function show_current(given) {
  current = given;
  settings.system = current.system;
  find("title").textContent = current.title || "New chat";
  document.title = current.title ? `${current.title} \u2013 xplm` : "xplm";
  show_turns(current.turns);
  side.show(sessions, current.id);
  history.replaceState(null, "", current.id ? `#${current.id}` : location.pathname);
}

function show_turns(given) {
  views = given.map((turn, index) => new TurnView(index, turn, actions));
  views.forEach((view, index) => view.update(given[index], { is_last: index === given.length - 1 }));
  turns.replaceChildren(...views.map((view) => view.element));
  turns.scrollTop = turns.scrollHeight;
}

function show_running(controller) {
  running = controller;
  find("send").hidden = running !== null;
  find("stop").hidden = running === null;
}

/** Send a message behind the first `keep` turns. */
async function say(text, keep) {
  const wrong = settings.wrong();
  if (wrong) {
    toggle_settings(true);
    wrong.reportValidity();
    return;
  }
  if (running !== null) return;
  const controller = new AbortController();
  show_running(controller);
  const done = await attempt(() => answer(text, keep, controller.signal));
  show_running(null);
  if (done === undefined) {
    show_turns(current.turns);
    if (!message.value && keep === current.turns.length) set_message(text);
  }
  message.focus();
}

async function answer(text, keep, signal) {
  if (current.id === null) {
    const title = text.split("\n")[0].slice(0, TITLE_CHARS);
    const begun = await api.start({ title, system: settings.system });
    sessions = [begun, ...sessions];
    show_current(begun);
  }
  const session = current;
  const draft = draft_of(text);
  const before = session.turns.slice(0, keep);
  show_turns([...before, draft]);
  const view = views[keep];
  const grow = painter(view, draft);
  grow();
  announcer.begin();
  try {
    const turn = await reply(session.id, draft, keep, settings.sampling(), signal, grow);
    session.turns = [...before, turn];
    announcer.end(draft.assistant);
  } catch (error) {
    if (error.name !== "AbortError") throw error;
    await stopped(session, draft, keep);
  }
  settle(session, keep, view);
  await refresh();
  return true;
}

async function stopped(session, draft, keep) {
  announcer.end(draft.assistant, "Stopped.");
  if (draft.assistant === "" && draft.reasoning_content === "") {
    if (!message.value && keep === session.turns.length) set_message(draft.user);
    return;
  }
  const kept = await keep_stopped(session.id, draft, keep, session.turns.length);
  const last = { ...kept.turns[keep], tokens: draft.tokens };
  session.turns = [...kept.turns.slice(0, keep), last];
}

function settle(session, keep, view) {
  if (session.turns[keep] && session.turns.length === keep + 1 && current === session) {
    view.update(session.turns[keep], { is_last: true });
    view.settled = true;
    follow();
  } else if (current === session) {
    show_turns(session.turns);
  }
}

/** A function that shows a draft before the next frame, however often it is called. */
function painter(view, draft) {
  let is_due = false;
  return () => {
    if (is_due) return;
    is_due = true;
    requestAnimationFrame(() => {
      is_due = false;
      if (view.settled) return;
      const is_near = turns.scrollHeight - turns.scrollTop - turns.clientHeight < NEAR_END;
      view.update(draft, { is_growing: true });
      announcer.grow(draft.assistant);
      if (is_near) follow();
    });
  };
}

function follow() {
  turns.scrollTop = turns.scrollHeight;
}

// What buttons do.

async function retry(index) {
  await say(current.turns[index].user, index);
}

async function edit(index, text) {
  await say(text, index);
}

async function fork_at(index) {
  await fork(current, index + 1);
}

async function rollback(index) {
  const n = current.turns.length - index - 1;
  if (running !== null || !(await ask(`Remove the ${n} turn${n > 1 ? "s" : ""} after this one?`, "Remove"))) return;
  await attempt(async () => show_current(await api.rollback(current.id, index + 1)));
  await attempt(refresh);
}

async function measure(index) {
  const session = current;
  const found = await attempt(() => api.fragility(session.id, index));
  if (current !== session || running !== null) return;
  if (found) session.turns[index] = found.turns[index];
  views[index].update(session.turns[index], { is_last: index === session.turns.length - 1 });
}

async function open(session) {
  if (running !== null) running.abort();
  await attempt(async () => show_current(await api.get(session.id)));
  show_side(false);
  message.focus();
}

async function rename(session, title) {
  await attempt(async () => {
    const changed = await api.change(session.id, { title });
    if (session.id === current.id) {
      current.title = changed.title;
      find("title").textContent = changed.title;
    }
    await refresh();
  });
}

async function fork(session, n) {
  await attempt(async () => {
    const other = await api.fork(session.id, n);
    const changed = await api.change(other.id, { title: `${session.title} (fork)` });
    await refresh();
    show_current(changed);
  });
  show_side(false);
}

async function remove(session) {
  if (!(await ask(`Delete \u201c${session.title || "Untitled"}\u201d?`, "Delete"))) return;
  await attempt(async () => {
    await api.remove(session.id);
    if (session.id === current.id) show_current(fresh());
    await refresh();
  });
}

async function change_system(system) {
  current.system = system;
  if (current.id !== null) await attempt(() => api.change(current.id, { system }));
}

// The frame around them.

function set_message(text) {
  message.value = text;
  fit();
}

function fit() {
  message.style.height = "auto";
  message.style.height = `${message.scrollHeight + 2}px`;
}

function submit() {
  const text = message.value.trim();
  if (!text || running !== null) return;
  set_message("");
  say(text, current.turns.length);
}

function show_side(is_open) {
  document.body.classList.toggle("side-open", is_open);
  find("show-chats").setAttribute("aria-expanded", String(is_open));
  find("veil").hidden = !is_open;
}

function toggle_settings(is_open = find("settings").hidden) {
  find("settings").hidden = !is_open;
  find("show-settings").setAttribute("aria-expanded", String(is_open));
}

find("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
message.addEventListener("input", fit);
message.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (running !== null) running.abort();
  else show_side(false);
});
find("stop").addEventListener("click", () => running?.abort());
find("new-chat").addEventListener("click", () => {
  running?.abort();
  show_current(fresh());
  show_side(false);
  message.focus();
});
find("show-chats").addEventListener("click", () => show_side(!document.body.classList.contains("side-open")));
find("veil").addEventListener("click", () => show_side(false));
find("show-settings").addEventListener("click", () => toggle_settings());

const linked = location.hash.slice(1);
api.on_key_needed(ask_for_key);
show_current(fresh());
await attempt(async () => {
  const [model] = await api.models();
  find("model").textContent = model?.id ?? "";
  sessions = await api.list();
  const wanted = sessions.find((session) => session.id === linked);
  if (wanted) show_current(await api.get(wanted.id));
  else side.show(sessions, null);
});
message.focus();
