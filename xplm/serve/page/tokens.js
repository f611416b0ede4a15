// The tokens of a reply: each tinted by its probability; the one in focus, or under the pointer, with its rivals.
//
// A token is [id, text, logprob, [[text, logprob], ...], is_fragile], as the server keeps it; id is null while a reply
// is on its way.

import { h } from "./dom.js";

const RIVALS = 5;
const STEPS = [0.9, 0.6, 0.3, 0.1]; // probabilities between the tints
const FRAGILE = { true: "fragile: rounding could have made it another", false: "not fragile" };

/** A token of a chunk's logprobs. */
export function from_entry(entry) {
  return [null, entry.token, entry.logprob, entry.top_logprobs.map((top) => [top.token, top.logprob]), null];
}

export function probability(logprob) {
  return logprob === null ? 0 : Math.exp(logprob);
}

export function percent(p) {
  if (p > 0 && p < 0.0005) return "< 0.1 %";
  return `${(100 * p).toFixed(1)} %`;
}

/** The five likeliest others in a token's place. */
export function rivals([, text, , top]) {
  const others = [...top];
  const own = others.findIndex(([other]) => other === text);
  if (own >= 0) others.splice(own, 1);
  return others.slice(0, RIVALS);
}

/** A text in which blanks and line ends can be seen. */
export function visible(text) {
  return text.replace(/\n/g, "\u21b5").replace(/ /g, "\u2423").replace(/\t/g, "\u21e5") || "\u2205";
}

/** A strip of tokens. `update(tokens)` shows more of them, or others. */
export class TokenStrip {
  #tokens = [];
  #strip = h("div", { class: "strip", role: "group", "aria-label": "Tokens; arrow keys go from one to the next" });
  #card = h("div", { class: "card", role: "status", hidden: true });
  #shown = -1;

  constructor() {
    this.element = h("div", { class: "tokens" }, this.#strip, this.#card);
    this.#strip.addEventListener("focusin", (event) => this.#open(this.#index_of(event.target)));
    this.#strip.addEventListener("pointerover", (event) => this.#open(this.#index_of(event.target)));
    this.#strip.addEventListener("click", (event) => this.#go(this.#index_of(event.target)));
    this.#strip.addEventListener("keydown", (event) => this.#move(event));
    this.element.addEventListener("pointerleave", () => this.#close());
    this.element.addEventListener("focusout", (event) => {
      if (!this.element.contains(event.relatedTarget)) this.#close();
    });
  }

  update(tokens) {
    const is_more = this.#tokens.length <= tokens.length && this.#tokens.every((token, n) => token === tokens[n]);
    if (!is_more) this.#strip.replaceChildren();
    const begin = this.#strip.childElementCount;
    this.#strip.append(...tokens.slice(begin).map((token, n) => token_element(token, begin + n)));
    this.#tokens = [...tokens];
  }

  #index_of(target) {
    return [...this.#strip.children].indexOf(target);
  }

  #go(index) {
    this.#strip.children[index]?.focus();
  }

  #move(event) {
    const last = this.#tokens.length - 1;
    const at = this.#index_of(event.target);
    const to = {
      ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last,
      ArrowUp: this.#beside(at, -1), ArrowDown: this.#beside(at, 1),
    }[event.key];
    if (event.key === "Escape" && !this.#card.hidden) {
      event.stopPropagation();
      this.#close();
    }
    if (to === undefined) return;
    event.preventDefault();
    this.#go(Math.max(0, Math.min(last, to)));
  }

  /** The token in the next line, above or below, that is nearest. */
  #beside(at, step) {
    const items = this.#strip.children;
    if (!items[at]) return at;
    const { left, top } = items[at].getBoundingClientRect();
    let found = at, line = null, nearest = Infinity;
    for (let n = at + step; n >= 0 && n < items.length; n += step) {
      const box = items[n].getBoundingClientRect();
      if ((box.top - top) * step <= 2) continue;
      if (line !== null && Math.abs(box.top - line) > 2) break;
      line = box.top;
      if (Math.abs(box.left - left) < nearest) [found, nearest] = [n, Math.abs(box.left - left)];
    }
    return found;
  }

  #open(index) {
    if (index < 0) return;
    this.#close();
    const item = this.#strip.children[index];
    for (const other of this.#strip.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
    item.tabIndex = 0;
    item.classList.add("current");
    this.#shown = index;
    this.#card.replaceChildren(...card_of(this.#tokens[index]));
    this.#card.hidden = false;
    const width = this.element.clientWidth;
    const left = Math.max(0, Math.min(item.offsetLeft, width - this.#card.offsetWidth));
    this.#card.style.left = `${left}px`;
    this.#card.style.top = `${item.offsetTop + item.offsetHeight + 6}px`;
  }

  #close() {
    this.#strip.children[this.#shown]?.classList.remove("current");
    this.#shown = -1;
    this.#card.hidden = true;
  }
}

function token_element(token, index) {
  const [, text, logprob, , is_fragile] = token;
  const p = probability(logprob);
  const tint = STEPS.findIndex((step) => p >= step);
  const name = `p${tint < 0 ? STEPS.length : tint}${is_fragile ? " fragile" : ""}`;
  const label = `${visible(text)}, ${percent(p)}${is_fragile ? ", fragile" : ""}`;
  const shown = text.includes("\n") ? text.replace(/\n/g, "\u21b5\n") : text || "\u2205";
  const tabindex = index === 0 ? "0" : "-1";
  return h("span", { class: `token ${name}`, tabindex, role: "button", "aria-label": label }, shown);
}

function bar(p) {
  const filled = h("div");
  filled.style.width = `${100 * p}%`;
  return h("div", {}, filled);
}

function card_of(token) {
  const [, text, logprob, top, is_fragile] = token;
  const row = (name, other, its) => h("tr", { class: name },
    h("td", {}, h("code", {}, visible(other))),
    h("td", { class: "bar", "aria-hidden": "true" }, bar(probability(its))),
    h("td", { class: "number" }, percent(probability(its))));
  const others = rivals(token);
  const table = h("table", {}, h("tbody", {},
    row("chosen", text, logprob), ...others.map(([other, its]) => row("rival", other, its))));
  const best = top.length && others.length ? others[0][1] : null;
  const margin = best === null || logprob === null ? null : logprob - best;
  const is_likeliest = margin === null || margin >= 0;
  const firm = FRAGILE[is_fragile] ?? (is_likeliest ? "fragility not measured" : "not the likeliest: a coin chose it");
  const lead = margin === null ? "" : `margin ${margin.toFixed(2)} nats, `;
  return [table, h("p", { class: "muted" }, `${lead}${firm}`)];
}
