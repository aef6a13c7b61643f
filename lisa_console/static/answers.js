// Answers as text: mentions in the colours of their masks, chips, history. Everything from elsewhere goes in as text.

import { paint } from "./colours.js";

const STAGES = {
  QUEUED: "waiting for another command",
  ENCODING: "looking at the picture",
  READING: "reading the command",
  GENERATING: "writing the answer",
  DECODING: "drawing masks",
};
const STATUSES = {
  SUCCESS: "found", NOT_FOUND: "not found", NO_IMAGE: "no picture", INVALID_COMMAND: "command refused",
  INVALID_IMAGE: "picture refused", NOT_READY: "not ready", BUSY: "too many commands wait", TIMEOUT: "took too long",
  CANCELED: "stopped", OUT_OF_MEMORY: "out of memory", INTERNAL_ERROR: "fault of the node", LOST: "the node ended",
  REJECTED: "rejected",
};

const SEG = "[SEG]"; // where LISA's text has a mask; people see its number

export const stageText = (stage) => STAGES[stage] ?? stage;
export const statusText = (status) => STATUSES[status] ?? status;

function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

/** The number of a mask, in its colour. */
function number(label) {
  const made = element("span", String(label), "number");
  paint(made, label);
  return made;
}

/** "1 mug 0.98, 62 mm, 0.41 m" without the number. */
export function chipText(mask) {
  const parts = [`${mask.phrase || "mask"} ${mask.score.toFixed(2)}`];
  if (mask.size_mm) parts.push(`${mask.size_mm[0]} mm`);
  if (mask.distance_m != null) parts.push(`${mask.distance_m.toFixed(2)} m`);
  return parts.join(", ");
}

/** Text without a mask of its own; a mask that is still to come is an ellipsis. */
const plain = (characters) => characters.join("").replaceAll(SEG, "[\u2026]");

/** Fills an element with an answer; each mention of a mask has the mask's colour. */
export function fillText(target, answer, masks) {
  const characters = [...answer]; // spans count Unicode characters, not UTF-16 units
  const spans = masks.flatMap((mask) => (mask.spans ?? []).map(([begin, end]) => ({ begin, end, label: mask.label })));
  spans.sort((a, b) => a.begin - b.begin);
  const parts = [];
  let at = 0;
  for (const { begin, end, label } of spans) {
    if (begin < at || end > characters.length) continue;
    parts.push(document.createTextNode(plain(characters.slice(at, begin))));
    const words = characters.slice(begin, end).join("");
    const mention = element("span", words === SEG ? `[${label}]` : words, "mention");
    mention.dataset.label = label;
    paint(mention, label);
    parts.push(mention);
    at = end;
  }
  parts.push(document.createTextNode(plain(characters.slice(at))));
  target.replaceChildren(...parts);
}

/** Puts new buttons into a list; the focus stays on the button of the same key. */
function replaceButtons(target, items, key) {
  const focused = target.contains(document.activeElement) ? document.activeElement.dataset[key] : undefined;
  target.replaceChildren(...items);
  if (focused !== undefined) target.querySelector(`[data-${key}="${CSS.escape(focused)}"]`)?.focus();
}

/** One button for each mask. */
export function fillChips(target, masks, chosen, onChoose) {
  replaceButtons(target, masks.map((mask) => {
    const button = element("button");
    button.type = "button";
    button.dataset.label = mask.label;
    button.setAttribute("aria-pressed", String(mask.label === chosen));
    button.append(number(mask.label), element("span", chipText(mask)));
    if (mask.label === chosen) button.append(element("span", "chosen", "chosen"));
    button.title = mask.size_mm ? `${mask.size_mm.join(" x ")} mm` : `${mask.area} pixels`;
    button.onclick = () => onChoose(mask.label);
    const item = element("li");
    item.append(button);
    return item;
  }), "label");
}

/** The list of commands, the newest first. Rows that did not change stay: their pictures need not be decoded again. */
export function fillHistory(target, entries, thumbnails, onShow) {
  const before = new Map([...target.children].map((row) => [row.dataset.content, row]));
  const rows = [...entries.values()].reverse().map((entry) => {
    const { result, progress } = entry;
    const marks = [entry.verdict, entry.chosen ? `mask ${entry.chosen} chosen` : ""].filter(Boolean);
    const how = result ? [statusText(result.status), ...marks].join(", ") : stageText(progress.stage);
    const what = (result ?? progress).command || "(targets)";
    const content = JSON.stringify([entry.id, what, how, thumbnails.get(entry.id)]);
    return before.get(content) ?? historyRow(content, entry.id, what, how, thumbnails.get(entry.id), onShow);
  });
  if (rows.length !== target.children.length || rows.some((row, at) => row !== target.children[at])) {
    replaceButtons(target, rows, "id");
  }
}

function historyRow(content, id, what, how, url, onShow) {
  const button = element("button");
  button.type = "button";
  button.dataset.id = id;
  const image = element(url ? "img" : "span", "", url ? "" : "blank");
  if (url) Object.assign(image, { src: url, alt: "" });
  button.append(image, element("span", what, "what"), element("span", how, "how"));
  button.onclick = () => onShow(id);
  const row = element("li");
  row.dataset.content = content;
  row.append(button);
  return row;
}
