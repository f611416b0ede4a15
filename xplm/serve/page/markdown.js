// Markdown to a tree of plain objects, without a document: blocks here, what is inside lines in inline.js.
//
// A block is {kind, source, ...}; two with one source are the same, which is how render.js knows what to keep. Every
// line is looked at a bounded number of times, whatever the text.

import { inline } from "./inline.js";

const LONGEST_DIVIDER = 1000;
const DEEPEST = 8; // lists and quotes in each other; what is deeper is a paragraph

const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6}) +(.*)$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:\s+(.*)|\s*)$/;
const QUOTE = /^ {0,3}> ?/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;

/** The blocks of a text. */
export function parse(text) {
  return blocks(text.replace(/\r\n?/g, "\n").replace(/\t/g, "    ").split("\n"), 0);
}

function blocks(lines, depth) {
  const found = [];
  let at = 0;
  while (at < lines.length) {
    if (lines[at].trim() === "") {
      at += 1;
      continue;
    }
    const [block, end] = block_at(lines, at, depth);
    block.source = lines.slice(at, end).join("\n");
    found.push(block);
    at = end;
  }
  return found;
}

function block_at(lines, at, depth) {
  const line = lines[at];
  let match;
  if ((match = FENCE.exec(line))) return fence(lines, at, match);
  if ((match = HEADING.exec(line))) {
    const words = match[2].trim().replace(/ #{1,6}$/, "");
    return [{ kind: "heading", level: match[1].length, parts: inline(words) }, at + 1];
  }
  if (RULE.test(line)) return [{ kind: "rule" }, at + 1];
  if (depth < DEEPEST && QUOTE.test(line)) return quote(lines, at, depth);
  if (depth < DEEPEST && ITEM.test(line)) return list(lines, at, depth);
  if (is_table(lines, at)) return table(lines, at);
  return paragraph(lines, at, depth);
}

function fence(lines, at, [, marks, info]) {
  let end = at + 1;
  const closing = new RegExp(`^ {0,3}${marks[0]}{${marks.length},}\\s*$`);
  while (end < lines.length && !closing.test(lines[end])) end += 1;
  const language = info.trim().split(/\s+/)[0].slice(0, 40);
  const block = { kind: "code", language, text: lines.slice(at + 1, end).join("\n") };
  return [block, Math.min(end + 1, lines.length)];
}

function quote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return [{ kind: "quote", blocks: blocks(inner, depth + 1) }, end];
}

function list(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  const is_ordered = /\d/.test(first[2]);
  const items = [];
  let end = at;
  while (end < lines.length) {
    const match = ITEM.exec(lines[end]);
    if (!match || /\d/.test(match[2]) !== is_ordered || RULE.test(lines[end])) break;
    const [inner, next] = item(lines, end, match);
    items.push(blocks(inner, depth + 1));
    end = next;
  }
  const begin = is_ordered ? Number.parseInt(first[2], 10) : null;
  return [{ kind: "list", is_ordered, begin, items }, end];
}

/** The lines of one item without their indent, and the line behind it. */
function item(lines, at, match) {
  const inner = [match[3] ?? ""];
  const indent = match[1].length + 2;
  let end = at + 1;
  while (end < lines.length) {
    const line = lines[end];
    if (line.trim() === "") {
      let next = end;
      while (next < lines.length && lines[next].trim() === "") next += 1;
      const goes_on = next < lines.length && (leading(lines[next]) >= indent || ITEM.test(lines[next]));
      if (!goes_on) return [inner, next];
      inner.push(...lines.slice(end, next));
      end = next;
    } else if (leading(line) >= indent) {
      inner.push(line.slice(Math.min(leading(line), match[1].length + match[2].length + 1)));
      end += 1;
    } else if (ITEM.test(line) || begins_block(line)) {
      break;
    } else {
      inner.push(line);
      end += 1;
    }
  }
  return [inner, end];
}

const leading = (line) => line.length - line.trimStart().length;
const begins_block = (line) => FENCE.test(line) || HEADING.test(line) || QUOTE.test(line) || RULE.test(line);

function is_table(lines, at) {
  const next = lines[at + 1];
  if (!lines[at].includes("|") || next === undefined || next.length > LONGEST_DIVIDER) return false;
  return next.includes("|") && DIVIDER.test(next);
}

function table(lines, at) {
  const head = cells(lines[at]);
  const rows = [];
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) {
    rows.push(cells(lines[end]).slice(0, head.length));
    end += 1;
  }
  return [{ kind: "table", head, rows }, end];
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => inline(cell.trim()));

function paragraph(lines, at, depth) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() !== "") {
    if (begins_block(lines[end]) || (depth < DEEPEST && ITEM.test(lines[end]))) break;
    end += 1;
  }
  return [{ kind: "paragraph", parts: inline(lines.slice(at, end).map((l) => l.trimStart()).join("\n")) }, end];
}
