// One exchange: what was said, thoughts folded, the reply as Markdown or token by token, and what can be done with it.

import { button, h } from "./dom.js";
import { show } from "./render.js";
import { TokenStrip } from "./tokens.js";

const ENDS = { length: "ended at the limit of tokens", null: "not generated to its end" };

/** What a reply took, in words. */
export function figures(turn) {
  const said = [];
  const { timings } = turn;
  if (timings) {
    said.push(`${timings.predicted_n} tokens`);
    if (timings.predicted_per_second > 0) said.push(`${timings.predicted_per_second.toFixed(1)} tokens/s`);
    const prompt = timings.cache_n + timings.prompt_n;
    said.push(`${timings.cache_n} of ${prompt} prompt tokens reused`);
  }
  const end = turn.finish_reason === "stop" ? null : ENDS[turn.finish_reason];
  if (end) said.push(end);
  if (turn.tool_calls?.length > 0) said.push(`called ${turn.tool_calls.map((call) => call.function.name).join(", ")}`);
  return said.join(" \u00b7 ");
}

/** The view of a turn. `actions`: {retry, edit, fork, rollback, measure}, each given its number. */
export class TurnView {
  settled = false; // the reply is whole: no draft is shown any more

  #index;
  #actions;
  #turn;
  #strip = null;
  #has_tokens = false;
  #user = h("div", { class: "user" });
  #thoughts = h("details", { class: "thoughts", hidden: true });
  #thought = h("div", { class: "thought" });
  #summary = h("summary", {}, "Thoughts");
  #reply = h("div", { class: "reply" });
  #foot = h("div", { class: "foot" });

  constructor(index, turn, actions) {
    this.#index = index;
    this.#actions = actions;
    this.#turn = turn;
    this.#thoughts.append(this.#summary, this.#thought);
    this.element = h("article", { class: "turn", "aria-label": `Turn ${index + 1}` },
      this.#user, this.#thoughts, this.#reply, this.#foot);
    this.#show_user();
  }

  /** Show what there is; `is_growing`: more comes; `is_last`: no turn follows. */
  update(turn, { is_growing = false, is_last = false } = {}) {
    this.#turn = turn;
    this.element.classList.toggle("growing", is_growing);
    this.element.setAttribute("aria-busy", String(is_growing));
    this.#thoughts.hidden = turn.reasoning_content === "";
    this.#summary.textContent = is_growing && turn.assistant === "" ? "Thinking\u2026" : "Thoughts";
    this.#thought.textContent = turn.reasoning_content;
    this.#show_reply();
    if (is_growing) this.#foot.replaceChildren(h("span", { class: "muted" }, "\u2026"));
    else this.#show_foot(is_last);
  }

  #show_reply() {
    const { tokens, assistant } = this.#turn;
    if (this.#has_tokens && tokens.length > 0) {
      if (this.#strip === null) {
        this.#strip = new TokenStrip();
        this.#reply.shownBlocks = [];
        this.#reply.replaceChildren(this.#strip.element);
      }
      this.#strip.update(tokens);
      return;
    }
    if (this.#strip !== null) this.#reply.replaceChildren();
    this.#strip = null;
    show(this.#reply, assistant);
  }

  #show_foot(is_last) {
    const { tokens } = this.#turn;
    const act = (name) => () => this.#actions[name](this.#index);
    const toggle = button("Tokens", () => {
      this.#has_tokens = !this.#has_tokens;
      toggle.setAttribute("aria-pressed", String(this.#has_tokens));
      measure.hidden = !this.#has_tokens;
      this.#show_reply();
    }, { class: "tiny toggle", "aria-pressed": String(this.#has_tokens) });
    const measure = button("Find fragile tokens", () => {
      measure.disabled = true;
      measure.textContent = "Measuring\u2026";
      this.#actions.measure(this.#index);
    }, { class: "tiny", hidden: !this.#has_tokens });
    const is_measured = tokens.some((token) => token[4] !== null);
    this.#foot.replaceChildren(
      h("span", { class: "muted figures" }, figures(this.#turn)),
      h("span", { class: "tools" },
        button("Retry", act("retry"), { class: "tiny" }),
        ...(tokens.length > 0 ? [toggle] : []),
        ...(tokens.length > 0 && tokens[0][0] !== null && !is_measured ? [measure] : []),
        button("Fork here", act("fork"), { class: "tiny" }),
        ...(is_last ? [] : [button("Roll back to here", act("rollback"), { class: "tiny" })])));
  }

  #show_user() {
    this.#user.replaceChildren(
      h("div", { class: "words" }, ...(this.#turn.tool_results ?? []).map((result) => h("pre", {}, result.content)),
        this.#turn.user),
      button("Edit", () => this.#edit(), { class: "tiny edit" }));
  }

  #edit() {
    const area = h("textarea", { rows: 3, "aria-label": "Your message, edited" });
    area.value = this.#turn.user;
    const cancel = () => {
      this.#show_user();
      this.#user.querySelector(".edit").focus();
    };
    const send = () => {
      if (area.value.trim()) this.#actions.edit(this.#index, area.value.trim());
    };
    area.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
      }
      if (event.key === "Escape") {
        event.stopPropagation();
        cancel();
      }
    });
    this.#user.replaceChildren(area, h("div", { class: "row end" },
      h("span", { class: "muted" }, "What follows is replaced."),
      button("Cancel", cancel, { class: "soft" }),
      button("Send", send, { class: "strong" })));
    area.focus();
  }
}
