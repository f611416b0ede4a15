// How replies are sampled, kept in localStorage; and the system prompt, which belongs to the chat.

import { h } from "./dom.js";

const STORED = "xplm-sampling";

const FIELDS = [
  { name: "temperature", label: "Temperature", min: 0, max: 100, step: "any" },
  { name: "top_p", label: "Top p", min: 0, max: 1, step: "any" },
  { name: "top_k", label: "Top k", min: 0, step: 1 },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: "any" },
  { name: "seed", label: "Seed", min: 0, step: 1 },
  { name: "max_tokens", label: "Max tokens", min: 1, step: 1 },
];

function stored() {
  try {
    const found = JSON.parse(localStorage.getItem(STORED) ?? "{}");
    return found !== null && typeof found === "object" ? found : {};
  } catch {
    return {};
  }
}

/** The settings' part of the page. `on_system` is given the system prompt when it changes. */
export class Settings {
  #inputs = new Map();
  #system = h("textarea", { id: "system", rows: 3, placeholder: "None" });

  constructor(element, on_system) {
    const values = stored();
    const fields = FIELDS.map(({ name, label, ...limits }) => {
      const input = h("input", { type: "number", id: name, placeholder: "default", inputmode: "decimal", ...limits });
      if (typeof values[name] === "number") input.value = String(values[name]);
      input.addEventListener("change", () => localStorage.setItem(STORED, JSON.stringify(this.sampling())));
      this.#inputs.set(name, input);
      return h("div", { class: "field" }, h("label", { for: name }, label), input);
    });
    this.#system.addEventListener("change", () => on_system(this.system));
    element.append(
      h("div", { class: "fields" }, ...fields),
      h("div", { class: "field" }, h("label", { for: "system" }, "System prompt of this chat"), this.#system));
  }

  /** The fields of a request; those left empty are the model's to choose. */
  sampling() {
    const found = {};
    for (const [name, input] of this.#inputs) {
      if (input.value !== "" && input.checkValidity()) found[name] = input.valueAsNumber;
    }
    return found;
  }

  /** A field whose value cannot be sent, or undefined. */
  wrong() {
    return [...this.#inputs.values()].find((input) => !input.checkValidity());
  }

  get system() {
    return this.#system.value.trim() || null;
  }

  set system(text) {
    this.#system.value = text ?? "";
  }
}
