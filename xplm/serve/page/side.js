// The list of chats: open, rename, fork, delete.

import { button, h } from "./dom.js";

/** The list. `actions`: {open, rename, fork, remove}, each given a session. */
export class Side {
  #element;
  #actions;
  #renaming = null;
  #last = [[], null];

  constructor(element, actions) {
    this.#element = element;
    this.#actions = actions;
  }

  show(sessions, current) {
    this.#last = [sessions, current];
    const rows = sessions.map((session) => this.#row(session, session.id === current));
    this.#element.replaceChildren(...rows);
    this.#element.querySelector("input")?.select();
  }

  #row(session, is_current) {
    const name = session.title || "Untitled";
    if (this.#renaming === session.id) return this.#name_row(session);
    const open = button(name, () => this.#actions.open(session), {
      class: "chat", title: name, "aria-current": is_current ? "true" : null,
    });
    const small = (text, label, action) => button(text, action, { class: "tiny", "aria-label": `${label} ${name}` });
    return h("li", { class: is_current ? "current" : "" }, open, h("span", { class: "tools" },
      small("Rename", "Rename", () => this.#rename(session.id)),
      small("Fork", "Fork", () => this.#actions.fork(session)),
      small("Delete", "Delete", () => this.#actions.remove(session))));
  }

  #name_row(session) {
    const input = h("input", { type: "text", value: session.title, maxlength: 200, "aria-label": "Name of the chat" });
    let is_over = false;
    const end = (is_kept) => {
      if (is_over) return;
      is_over = true;
      this.#renaming = null;
      if (is_kept && input.value.trim() !== session.title) this.#actions.rename(session, input.value.trim());
      else this.show(...this.#last);
    };
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") end(true);
      if (event.key === "Escape") {
        event.stopPropagation();
        end(false);
      }
    });
    input.addEventListener("blur", () => end(true));
    return h("li", {}, input);
  }

  #rename(id) {
    this.#renaming = id;
    this.show(...this.#last);
  }
}
