// The page: what comes from the console is shown, what the person does is sent.

import { fillChips, fillHistory, fillText, stageText, statusText } from "./answers.js";
import { Connection } from "./connection.js";
import { Picture } from "./picture.js";
import { fillOptions } from "./settings.js";

const FRAME = 1, PICTURE = 2, MASK = 3, THUMBNAIL = 4;
const TOOLS = { "tool-point": "point", "tool-not": "not", "tool-box": "box", "tool-brush": "brush", "tool-erase": "erase" };
const KEYS = { p: "tool-point", n: "tool-not", x: "tool-box", m: "tool-brush", e: "tool-erase" };
const MOST_TYPED = 100;
const MOST_ENTRIES = 50; // as the console keeps

const $ = (id) => document.getElementById(id);
const entries = new Map(); // id -> {id, progress, result, chosen, verdict, picture}
const thumbnails = new Map(); // id -> URL
const session = remembered("session", () => Array.from(crypto.getRandomValues(new Uint8Array(8)), (b) => b.toString(16)).join(""));
const typed = JSON.parse(sessionStorage.getItem("typed") ?? "[]");
let typedAt = typed.length;
let shownId = ""; // whose text is shown
let saveExamples = false;
let connected = false;

const picture = new Picture($("canvas"), {
  onMarks: showMarks,
  onDrawn: (stamp) => {
    connection.send("drawn");
    window.dispatchEvent(new CustomEvent("drawn", { detail: stamp }));
  },
  onChoose: choose,
});
const connection = new Connection({ onEvent: take, onFrame: takeFrame, onState: showConnection });

function remembered(name, make) {
  if (!sessionStorage.getItem(name)) sessionStorage.setItem(name, make());
  return sessionStorage.getItem(name);
}

// --- from the console

function take(event) {
  const entry = entries.get(event.id);
  switch (event.type) {
    case "hello":
      saveExamples = event.save_examples;
      fillCameras(event.cameras);
      sendView();
      showSaving();
      break;
    case "refused": showProblem(event.text); break;
    case "state": showState(event); break;
    case "options": fillOptions($("options"), event.options, (name, value) => connection.send("set", { name, value })); break;
    case "history":
      entries.clear();
      for (const one of event.entries) entries.set(one.id, one);
      if (!entries.has(shownId)) {
        shownId = [...entries.keys()].at(-1) ?? "";
        picture.show(""); // an old picture must not be taken for the present one
        showSaving();
      }
      showAnswer();
      showHistory();
      break;
    case "progress": takeProgress(event); break;
    case "result": takeResult(event); break;
    case "chosen": if (entry) entry.chosen = event.label; refresh(event.id); break;
    case "verdict":
      if (entry) entry.verdict = event.verdict;
      refresh(event.id);
      if (event.id === shownId) showSaving(event.saved ? "kept as an example for training" : "");
      break;
    case "problem": showProblem(event.text); break;
  }
}

function takeFrame(frame) {
  if (frame.kind === FRAME) picture.showLive(frame).then(() => showCaption(), () => connection.send("drawn"));
  else if (frame.kind === PICTURE) picture.takePicture(frame).then(showMarks);
  else if (frame.kind === MASK) {
    picture.takeMask(frame).then(() => {
      const entry = entries.get(frame.header.id);
      // The first mask of one's own command: its picture is shown, with its masks as they come.
      if (frame.header.id === shownId && entry && !entry.result && !picture.held) picture.show(shownId);
      showCaption();
      window.dispatchEvent(new CustomEvent("mask", { detail: frame.header }));
    });
    const entry = entries.get(frame.header.id);
    if (entry && !entry.result) {
      entry.masks = [...(entry.masks ?? []).filter((one) => one.label !== frame.header.label), frame.header];
      if (frame.header.id === shownId) showAnswer();
    }
  } else if (frame.kind === THUMBNAIL) {
    URL.revokeObjectURL(thumbnails.get(frame.header.id) ?? "");
    thumbnails.set(frame.header.id, URL.createObjectURL(new Blob([frame.payload], { type: "image/jpeg" })));
    showHistory();
  }
}

function takeProgress({ id, type, ...progress }) {
  const first = !entries.has(id);
  const entry = entries.get(id) ?? { id, result: null, chosen: 0, verdict: "" };
  entry.progress = progress;
  entries.set(id, entry);
  forgetOld();
  if (first && (progress.session === session || mayInterrupt(progress))) showEntry(id);
  refresh(id);
}

function takeResult({ id, type, ...result }) {
  const entry = entries.get(id) ?? { id, progress: {}, chosen: 0, verdict: "" };
  const first = !entries.has(id);
  entry.result = result;
  entries.set(id, entry);
  forgetOld();
  if (first && mayInterrupt(result)) showEntry(id);
  if (id === shownId && result.masks.length && !picture.held) picture.show(id);
  refresh(id);
}

const running = () => [...entries.values()].reverse().find((entry) => !entry.result && entry.progress.session === session);

/** Whether somebody else's command may take the view: not from one's own command, nor from what one draws. */
const mayInterrupt = ({ source }) => !running() && !picture.tool && !picture.held && source !== "watch";

function forget(id) {
  entries.delete(id);
  URL.revokeObjectURL(thumbnails.get(id) ?? "");
  thumbnails.delete(id);
}

/** As the console does: the oldest go, and of a standing command all but the newest answer. */
function forgetOld() {
  const standing = [...entries.values()].filter(({ result, verdict }) => result?.source === "watch" && !verdict);
  for (const { id } of standing.slice(0, -1)) if (id !== shownId) forget(id);
  for (const id of entries.keys()) {
    if (entries.size <= MOST_ENTRIES) return;
    if (id !== shownId) forget(id);
  }
}

const isMine = (entry) => Boolean(entry && entry.progress.session === session);

// --- shown

function showConnection(is, reason) {
  connected = is;
  if (!is) {
    setState("bad", reason || "no connection to the console; trying again");
    $("canvas").setAttribute("aria-label", "No picture: no connection");
  } else hideProblem();
}

function setState(lamp, text) {
  $("lamp").className = lamp;
  if ($("state-text").textContent !== text) $("state-text").textContent = text;
}

function showState(state) {
  if (!state.state) return;
  const lamp = { READY: "ready", BUSY: "busy", LOADING: "busy", RESTARTING: "busy" }[state.state] ?? "bad";
  const parts = [state.state === "LOADING" ? `LOADING ${Math.round(100 * state.progress)} %` : state.state];
  if (state.queued) parts.push(`${state.queued} waiting`);
  if (state.message && state.state !== "READY") parts.push(state.message);
  const camera = state.cameras?.[$("camera").value];
  if (camera) {
    if (camera.problem) parts.push(camera.problem);
    else if (camera.silence_s == null) parts.push(`no picture on ${camera.topic} yet`);
    else if (camera.silence_s > 2) parts.push(`no new picture on ${camera.topic} for ${Math.round(camera.silence_s)} s`);
    else parts.push(`${camera.rate_hz.toFixed(0)} Hz`);
  }
  if (state.model) parts.push(`${state.model} on ${state.device}`);
  parts.push(...state.hints ?? []);
  setState(lamp, parts.join(" · "));
}

function showEntry(id) {
  shownId = id;
  const entry = entries.get(id);
  const pictured = entry?.result?.masks.length || (entry && !isMine(entry));
  if (!picture.has(id) && entry?.picture) connection.send("show", { id });
  picture.show(entry?.result && pictured ? id : "");
  showSaving();
  showAnswer();
}

function refresh(id) {
  if (id === shownId) showAnswer();
  showHistory();
}

function showAnswer() {
  const entry = entries.get(shownId);
  $("answer").hidden = !entry;
  const mine = running();
  $("stop").hidden = !mine;
  if (!entry) return showCaption();
  const { result, progress } = entry;
  const masks = result?.masks ?? entry.masks ?? [];
  $("question").textContent = (result ?? progress).command || "(targets)";
  const others = (result ?? progress).session === session ? "" : `asked by ${(result ?? progress).source || "somebody"} · `;
  $("stage").textContent = others + (result ? statusText(result.status) + seconds(result) : stageText(progress.stage));
  fillText($("text"), (result ?? progress).answer ?? "", masks);
  fillChips($("chips"), masks, entry.chosen, choose);
  const absent = result?.absent?.length ? `Not in the picture: ${result.absent.join(", ")}. ` : "";
  $("remark").textContent = absent + (result?.message ?? "");
  $("verdicts").hidden = !result || !["SUCCESS", "NOT_FOUND"].includes(result.status);
  $("right").setAttribute("aria-pressed", String(entry.verdict === "right"));
  $("wrong").setAttribute("aria-pressed", String(entry.verdict === "wrong"));
  showMarks();
  showCaption();
}

function seconds(result) {
  return result.timings.total ? ` · ${result.timings.total.toFixed(1)} s` : "";
}

function showCaption() {
  const text = picture.held ? "held: draw what you mean"
    : picture.shown && picture.has(picture.shown) ? "picture of the answer"
    : picture.live ? (picture.live.masks.length ? "live, followed" : "live") : "no picture yet";
  $("caption").textContent = text;
  $("live").setAttribute("aria-pressed", String(!picture.shown && !picture.held));
  const entry = entries.get(picture.shown);
  const what = entry?.result ? `: ${entry.result.masks.length} masks for ${entry.result.command}` : "";
  $("canvas").setAttribute("aria-label", `Picture, ${text}${what}`);
}

function showMarks() {
  const marked = picture.points.length || picture.box || picture.held || picture.brush;
  $("marks-clear").hidden = !marked;
  $("tool-erase").hidden = !picture.brush;
  $("save").hidden = !picture.brush;
  $("nothing").hidden = !(saveExamples && entries.get(shownId)?.result && picture.has(shownId));
  for (const [id, tool] of Object.entries(TOOLS)) $(id).setAttribute("aria-pressed", String(picture.tool === tool));
  $("tool-brush").disabled = !picture.has(picture.shown);
  showCaption();
}

function showSaving(text = "") {
  $("saving").textContent = text || (saveExamples ? "Corrected answers are kept as examples: picture, words and mask." : "");
}

function showHistory() {
  fillHistory($("history"), entries, thumbnails, showEntry);
}

function showProblem(text) {
  $("problem").textContent = text;
  $("problem").hidden = false;
}

function hideProblem() {
  $("problem").hidden = true;
}

function fillCameras(cameras) {
  $("camera-label").hidden = cameras.length < 2;
  const before = $("camera").value;
  $("camera").replaceChildren(...cameras.map((name) => new Option(name || "camera", name)));
  if (cameras.includes(before)) $("camera").value = before;
}

// --- sent

function sendView() {
  connection.send("view", { camera: $("camera").value, visible: document.visibilityState === "visible" });
}

function sendCommand(event) {
  event?.preventDefault();
  const text = $("command").value;
  const held = picture.held;
  const marks = held ? { points: picture.points, box: picture.box, stamp: held.stamp } : {};
  hideProblem();
  const camera = $("camera").value;
  if (!connection.send("command", { text, camera, session, explain: $("explain").checked, ...marks })) {
    return showProblem("not sent: there is no connection to the console");
  }
  if (text.trim() && text.length < 1000 && typed.at(-1) !== text) typed.push(text);
  if (typed.length > MOST_TYPED) typed.shift();
  sessionStorage.setItem("typed", JSON.stringify(typed));
  typedAt = typed.length;
  $("command").value = "";
  picture.show("");
}

/** Escape: ends the command; else leaves the line, so that keys are keys again; else forgets what was drawn. */
function escape() {
  if (running()) stop();
  else if (isWriting()) document.activeElement.blur();
  else if (picture.tool || picture.held) picture.clearMarks();
}

function stop() {
  const entry = running();
  if (entry) connection.send("cancel", { id: entry.id });
}

const isWriting = () => ["INPUT", "SELECT", "TEXTAREA"].includes(document.activeElement?.tagName);

function choose(label) {
  if (entries.get(shownId)?.result?.masks.some((mask) => mask.label === label)) connection.send("choose", { id: shownId, label });
}

function judge(right, mask = "") {
  if (entries.get(shownId)?.result) connection.send("correct", { id: shownId, right, mask });
}

async function saveMask() {
  judge(false, await picture.mendedMask());
  picture.clearMarks();
  picture.show(shownId);
}

function useTool(id) {
  const tool = TOOLS[id];
  if ((tool === "point" || tool === "not" || tool === "box") && !picture.source) return;
  if (tool === "point" || tool === "not" || tool === "box") connection.send("hold", { stamp: picture.source.stamp });
  picture.use(picture.tool === tool ? "" : tool);
  if (picture.tool) $("canvas").focus();
  showMarks();
}

function recall(step) {
  if (!typed.length) return;
  typedAt = Math.min(Math.max(typedAt + step, 0), typed.length);
  $("command").value = typed[typedAt] ?? "";
}

function press(event) {
  if (event.key === "Escape") return escape();
  if (document.activeElement === $("command") && ["ArrowUp", "ArrowDown"].includes(event.key)) {
    event.preventDefault();
    return recall(event.key === "ArrowUp" ? -1 : 1);
  }
  if (isWriting() || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  if (key === "/") { event.preventDefault(); $("command").focus(); }
  else if (key === "l") picture.show("");
  else if (key >= "1" && key <= "9") choose(Number(key));
  else if (key === "+") judge(true);
  else if (key === "-") judge(false);
  else if (KEYS[key] && !$(KEYS[key]).disabled && !$(KEYS[key]).hidden) useTool(KEYS[key]);
}

function offerSpeech() {
  const Recognition = window.SpeechRecognition ?? window.webkitSpeechRecognition;
  if (!Recognition || !window.isSecureContext) return;
  $("speak").hidden = false;
  $("speak").onclick = () => {
    const recognition = new Recognition();
    recognition.lang = "en-US";
    recognition.onresult = ({ results }) => { $("command").value = results[0][0].transcript; sendCommand(); };
    recognition.onerror = ({ error }) => showProblem(`speech: ${error}`);
    recognition.start();
  };
}

$("form").onsubmit = sendCommand;
$("stop").onclick = stop;
$("live").onclick = () => picture.show("");
$("marks-clear").onclick = () => picture.clearMarks();
$("clear").onclick = () => connection.send("clear");
$("forget").onclick = () => connection.send("clear_session");
$("right").onclick = () => judge(true);
$("wrong").onclick = () => judge(false);
$("save").onclick = saveMask;
$("nothing").onclick = async () => judge(false, await picture.emptyMask());
$("camera").onchange = () => { picture.show(""); sendView(); };
for (const id of Object.keys(TOOLS)) $(id).onclick = () => useTool(id);
document.addEventListener("keydown", press);
document.addEventListener("visibilitychange", sendView);
offerSpeech();
showMarks();
connection.open();
