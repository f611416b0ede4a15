// A tree of markdown.js as elements, kept up to date while the text grows.

import { button, h } from "./dom.js";
import { safe_address } from "./inline.js";
import { parse } from "./markdown.js";

/** Show a text in an element; what did not change since the last time stays as it is. */
export function show(element, text) {
  const shown = element.shownBlocks ?? [];
  const blocks = parse(text);
  let same = 0;
  while (same < Math.min(shown.length, blocks.length) && shown[same] === key(blocks[same])) same += 1;
  while (element.childNodes.length > same) element.lastChild.remove();
  element.append(...blocks.slice(same).map(block_element));
  element.shownBlocks = blocks.map(key);
}

const key = (block) => `${block.kind}\0${block.source}`;

const MAKERS = {
  paragraph: ({ parts }) => h("p", {}, ...nodes(parts)),
  heading: ({ level, parts }) => h(`h${Math.min(6, level + 2)}`, {}, ...nodes(parts)),
  rule: () => h("hr"),
  quote: ({ blocks }) => h("blockquote", {}, ...blocks.map(block_element)),
  code: code_element,
  list: list_element,
  table: table_element,
  strong: ({ parts }) => h("strong", {}, ...nodes(parts)),
  emphasis: ({ parts }) => h("em", {}, ...nodes(parts)),
  deleted: ({ parts }) => h("del", {}, ...nodes(parts)),
  break: () => h("br"),
  link: link_element,
};

const block_element = (block) => MAKERS[block.kind](block);

function nodes(parts) {
  return parts.map((part) => {
    if (typeof part === "string") return part;
    return part.kind === "code" ? h("code", {}, part.text) : MAKERS[part.kind](part);
  });
}

function code_element({ language, text }) {
  const copy = button("Copy", async () => {
    await navigator.clipboard.writeText(text);
    copy.textContent = "Copied";
  });
  const head = h("div", { class: "code-head" }, h("span", {}, language || "text"), copy);
  return h("div", { class: "code" }, head, h("pre", { tabindex: "0" }, h("code", {}, text)));
}

function list_element({ is_ordered, begin, items }) {
  const rows = items.map((blocks) => {
    const is_plain = blocks.length > 0 && blocks[0].kind === "paragraph";
    const first = is_plain ? nodes(blocks[0].parts) : [];
    return h("li", {}, ...first, ...blocks.slice(is_plain ? 1 : 0).map(block_element));
  });
  return is_ordered ? h("ol", { start: begin === 1 ? null : begin }, ...rows) : h("ul", {}, ...rows);
}

function table_element({ head, rows }) {
  const row = (tag) => (cells) => h("tr", {}, ...cells.map((parts) => h(tag, {}, ...nodes(parts))));
  return h("div", { class: "wide", tabindex: "0" },
    h("table", {}, h("thead", {}, row("th")(head)), h("tbody", {}, ...rows.map(row("td")))));
}

/** A link, with the name of the site behind other words, so that it says where it leads. */
function link_element({ address, host, parts }) {
  const rel = "noopener noreferrer nofollow";
  const link = h("a", { href: address, target: "_blank", rel, title: address }, ...nodes(parts));
  const said = safe_address(link.textContent);
  const says_where = said?.host === host && said.username === "";
  return h("span", {}, link, says_where ? null : h("span", { class: "host" }, ` (${host})`));
}
