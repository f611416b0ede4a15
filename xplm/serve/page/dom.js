// Elements with text inside. Strings become text nodes, so that nothing is ever parsed as markup.

/** An element. Properties: `class`, `on` ({event: listener}), `data` ({name: value}), and attributes; false leaves out. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name === "data") {
      Object.assign(element.dataset, value);
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A button that does something. */
export function button(text, action, properties = {}) {
  return h("button", { type: "button", class: "plain", on: { click: action }, ...properties }, text);
}

export const find = (id) => document.getElementById(id);

/** Ask before something that cannot be undone; a promise of true or false. */
export function ask(question, verb) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { "aria-label": question });
    const close = (answer) => () => dialog.close(answer);
    dialog.append(
      h("p", {}, question),
      h("div", { class: "row end" },
        button("Cancel", close("no"), { class: "soft" }),
        button(verb, close("yes"), { class: "strong", autofocus: true })),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
