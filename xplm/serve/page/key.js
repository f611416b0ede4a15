// The dialog that asks for an API key.

import { button, h } from "./dom.js";

/** A key, or null; `is_again`: the one that was tried is not right. */
export function ask_for_key(is_again) {
  return new Promise((resolve) => {
    const input = h("input", { type: "password", id: "key", autocomplete: "off", required: true });
    const form = h("form", { method: "dialog" },
      h("label", { for: "key" }, "API key"),
      input,
      h("p", { class: "muted" }, is_again
        ? "The server does not know that key."
        : "This server asks for a key. It is kept in this tab until you close it."),
      h("div", { class: "row end" },
        button("Cancel", () => dialog.close(), { class: "soft" }),
        h("button", { type: "submit", class: "strong" }, "Use it")));
    const dialog = h("dialog", { "aria-label": "API key", id: "key-dialog" }, form);
    let given = null;
    form.addEventListener("submit", () => {
      given = input.value.trim() || null;
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(given);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
