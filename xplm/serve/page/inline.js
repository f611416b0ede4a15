// What stands inside lines of Markdown: code, emphasis, links and breaks, as a tree of plain objects.
//
// A part is a string, or {kind, ...}. A mark whose partner was looked for once and not found is not looked for again,
// so that the work grows with the text alone.

const DEEPEST = 6;
const ESCAPED = "\\`*_{}[]()#+-.!~|<>";
const LINK = /!?\[([^[\]]{0,1000})\]\(\s*<?([^\s()<>]{0,2000}(?:\([^\s()<>]{0,200}\)[^\s()<>]{0,200}){0,4})>?(?:\s+"[^"]{0,300}")?\s*\)/y;
const ADDRESS = /<?(https?:\/\/[^\s<>"'`]{1,2000})>?/y;
const SPECIAL = /[\\`*_~![<h\n]/g;
const KINDS = { "**": "strong", __: "strong", "~~": "deleted", "*": "emphasis", _: "emphasis" };

/** The parts of a line, or of several. */
export function inline(text, depth = 0) {
  const parts = [];
  const lacking = new Set();
  let at = 0;
  const say = (part) => {
    const last = parts.length - 1;
    if (typeof part === "string" && typeof parts[last] === "string") parts[last] += part;
    else if (part !== "") parts.push(part);
  };
  while (at < text.length) {
    SPECIAL.lastIndex = at;
    const next = SPECIAL.exec(text)?.index ?? text.length;
    say(text.slice(at, next));
    at = next;
    if (at === text.length) break;
    const found = part_at(text, at, depth, lacking);
    say(found ? found[0] : text[at]);
    at = found ? found[1] : at + 1;
  }
  return parts;
}

/** The address of a link that may be followed, or null. Only http and https may. */
export function safe_address(text) {
  try {
    const address = new URL(text);
    return address.protocol === "http:" || address.protocol === "https:" ? address : null;
  } catch {
    return null;
  }
}

function part_at(text, at, depth, lacking) {
  const character = text[at];
  if (character === "\\" && text[at + 1] === "\n") return [{ kind: "break" }, at + 2];
  if (character === "\\" && at + 1 < text.length && ESCAPED.includes(text[at + 1])) return [text[at + 1], at + 2];
  if (character === "\n") return [text[at - 1] === " " && text[at - 2] === " " ? { kind: "break" } : "\n", at + 1];
  if (character === "`") return code(text, at, lacking);
  if (character === "[" || (character === "!" && text[at + 1] === "[")) return link(text, at, depth);
  if (character === "<" || character === "h") return address(text, at);
  if (character === "*" || character === "_" || character === "~") return marked(text, at, depth, lacking);
  return null;
}

function code(text, at, lacking) {
  let length = 1;
  while (text[at + length] === "`") length += 1;
  const marks = "`".repeat(length);
  if (lacking.has(marks)) return [marks, at + length];
  let end = text.indexOf(marks, at + length);
  while (end >= 0 && (text[end + length] === "`" || text[end - 1] === "`")) {
    let next = end + length;
    while (text[next] === "`") next += 1;
    end = text.indexOf(marks, next);
  }
  if (end < 0) {
    lacking.add(marks);
    return [marks, at + length];
  }
  const inner = text.slice(at + length, end).replace(/\n/g, " ");
  const is_padded = inner.startsWith(" ") && inner.endsWith(" ") && inner.trim() !== "";
  return [{ kind: "code", text: is_padded ? inner.slice(1, -1) : inner }, end + length];
}

function link(text, at, depth) {
  LINK.lastIndex = at;
  const match = LINK.exec(text);
  if (!match) return null;
  const [whole, label, target] = match;
  const parts = depth < DEEPEST ? inline(label, DEEPEST) : [label];
  const found = safe_address(target);
  if (!found) return [whole, at + whole.length]; // as it was written
  return [{ kind: "link", address: found.href, host: found.host, parts }, at + whole.length];
}

function address(text, at) {
  if (at > 0 && text[at] === "h" && /\w/.test(text[at - 1])) return null;
  ADDRESS.lastIndex = at;
  const match = ADDRESS.exec(text);
  if (!match) return null;
  const is_bare = text[at] === "h";
  const target = is_bare ? match[1].replace(/[.,;:!?)\]*_~]+$/, "") : match[1];
  const found = safe_address(target);
  if (!found) return null;
  const end = is_bare ? at + target.length : at + match[0].length;
  return [{ kind: "link", address: found.href, host: found.host, parts: [target] }, end];
}

function marked(text, at, depth, lacking) {
  const character = text[at];
  const is_double = text[at + 1] === character;
  const mark = is_double ? character + character : character;
  const width = mark.length;
  if (!(mark in KINDS) || depth >= DEEPEST || lacking.has(mark)) return [mark, at + width];
  const opens = /\S/.test(text[at + width] ?? " ") && !(character === "_" && /\w/.test(text[at - 1] ?? " "));
  if (!opens) return [mark, at + width];
  const end = closing(text, at + width, mark);
  if (end < 0) {
    lacking.add(mark);
    return [mark, at + width];
  }
  return [{ kind: KINDS[mark], parts: inline(text.slice(at + width, end), depth + 1) }, end + width];
}

function closing(text, begin, mark) {
  const character = mark[0];
  let end = text.indexOf(mark, begin + 1);
  while (end >= 0) {
    let run = end;
    while (text[run] === character) run += 1;
    const is_word = character === "_" && /\w/.test(text[run] ?? " ");
    const fits = mark.length === 2 ? run - end >= 2 : (run - end) % 2 === 1;
    if (fits && !is_word && /\S/.test(text[end - 1])) return run - mark.length;
    end = text.indexOf(mark, run);
  }
  return -1;
}
