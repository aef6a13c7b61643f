// The canvas: live pictures with followed masks, or the picture of an answer with its masks, and what a person draws.

import { colourOf } from "./colours.js";

const FILL = 140; // opacity of a mask, of 255
const BRUSH = 0.02; // radius, share of the picture's width

/** A mask as a coloured bitmap: {x, y, width, height, label, canvas}. */
async function colouredMask(header, png) {
  const bitmap = await createImageBitmap(new Blob([png], { type: "image/png" }));
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const image = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const { width, height } = image;
  const pixels = new Uint32Array(image.data.buffer); // whole pixels, alpha first: this runs for every followed mask
  const inside = pixels.map((pixel) => (pixel & 0xff) >> 7);
  const [r, g, b] = colourOf(header.label);
  const area = ((FILL << 24) | (b << 16) | (g << 8) | r) >>> 0;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const edge = x === 0 || y === 0 || x === width - 1 || y === height - 1
        || !(inside[i - 1] && inside[i + 1] && inside[i - width] && inside[i + width]);
      pixels[i] = !inside[i] ? 0 : edge ? 0xffffffff : area;
    }
  }
  context.putImageData(image, 0, 0);
  const [x, y] = header.roi;
  return { x, y, width, height, label: header.label, canvas };
}

export class Picture {
  /** onMarks(): the person drew something; onDrawn(stamp): a live picture is drawn; onChoose(label): a mask is clicked. */
  constructor(canvas, { onMarks, onDrawn, onChoose }) {
    Object.assign(this, { canvas, onMarks, onDrawn, onChoose });
    this.context = canvas.getContext("2d", { alpha: false });
    this.live = null; // {bitmap, stamp, size, masks}
    this.answers = new Map(); // id -> {bitmap, stamp, size, masks: Map}
    this.shown = ""; // id of the answer; empty: live
    this.held = null; // the picture that is drawn on
    this.tool = "";
    this.points = [];
    this.box = null;
    this.brush = null; // canvas of the mask that is mended
    this.cursor = null; // of the keyboard
    this.begun = this.drawn = 0; // live pictures: how many came, and the number of the one that is there
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", () => this.#up());
    canvas.addEventListener("pointercancel", () => this.#up());
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  /** A live picture. The newest one wins; the others are acknowledged too. */
  async showLive({ stamp, header, payload }) {
    const number = ++this.begun;
    const bitmap = await createImageBitmap(new Blob([payload.subarray(0, header.bytes)], { type: "image/jpeg" }));
    let at = header.bytes;
    const masks = [];
    for (const mask of header.masks) {
      masks.push(await colouredMask(mask, payload.subarray(at, at + mask.bytes)));
      at += mask.bytes;
    }
    if (number < this.drawn) { // a newer one was decoded sooner
      bitmap.close();
      return this.onDrawn(stamp);
    }
    this.drawn = number;
    this.live?.bitmap.close();
    this.live = { bitmap, stamp, size: [header.width, header.height], masks };
    if (!this.shown && !this.held) this.draw();
    this.onDrawn(stamp);
  }

  /** The picture that a command is about. */
  async takePicture({ stamp, header, payload }) {
    const bitmap = await createImageBitmap(new Blob([payload], { type: "image/jpeg" }));
    const answer = this.#answer(header.id);
    Object.assign(answer, { bitmap, stamp, size: [header.width, header.height] });
    if (this.shown === header.id) this.draw();
  }

  /** A mask of an answer. */
  async takeMask({ header, payload }) {
    const answer = this.#answer(header.id);
    answer.masks.set(header.label, await colouredMask(header, payload));
    if (this.shown === header.id) this.draw();
  }

  #answer(id) {
    if (!this.answers.has(id)) {
      this.answers.set(id, { bitmap: null, masks: new Map() });
      if (this.answers.size > 8) this.answers.delete(this.answers.keys().next().value);
    }
    return this.answers.get(id);
  }

  /** Whether an answer's picture is here. */
  has(id) {
    return Boolean(this.answers.get(id)?.bitmap);
  }

  /** Shows an answer; empty: the live picture. */
  show(id) {
    this.shown = id;
    this.clearMarks();
    this.draw();
  }

  get source() {
    if (this.held) return this.held;
    const answer = this.shown ? this.answers.get(this.shown) : null;
    return answer?.bitmap ? answer : this.live;
  }

  /** (x, y) of the picture in camera pixels. */
  #place(event) {
    const bounds = this.canvas.getBoundingClientRect();
    const [width, height] = this.source.size;
    // The canvas keeps its shape inside its box (object-fit: contain).
    const scale = Math.min(bounds.width / width, bounds.height / height);
    const x = (event.clientX - bounds.left - (bounds.width - scale * width) / 2) / scale;
    const y = (event.clientY - bounds.top - (bounds.height - scale * height) / 2) / scale;
    return [Math.min(Math.max(x, 0), width - 1), Math.min(Math.max(y, 0), height - 1)];
  }

  /** From now on the pointer draws: "point", "not", "box", "brush", "erase"; empty: it chooses. */
  use(tool) {
    this.tool = tool;
    this.canvas.classList.toggle("drawing", Boolean(tool));
    this.canvas.tabIndex = tool ? 0 : -1;
    if ((tool === "brush" || tool === "erase") && !this.brush) this.#beginMending();
    if (tool && tool !== "brush" && tool !== "erase") this.#hold();
    if (tool && this.source && !this.cursor) this.cursor = this.source.size.map((side) => side / 2);
    this.draw();
  }

  /** Stops the picture, so that what is drawn belongs to it. */
  #hold() {
    if (this.held || !this.source) return;
    const { bitmap, stamp, size } = this.source;
    const copy = new OffscreenCanvas(bitmap.width, bitmap.height);
    copy.getContext("2d").drawImage(bitmap, 0, 0);
    this.held = { bitmap: copy, stamp, size, masks: [] };
    this.onMarks();
  }

  #beginMending() {
    const answer = this.answers.get(this.shown);
    if (!answer?.bitmap) return;
    const [width, height] = answer.size;
    this.brush = new OffscreenCanvas(width, height);
    const context = this.brush.getContext("2d", { willReadFrequently: true });
    for (const mask of answer.masks.values()) {
      const image = mask.canvas.getContext("2d").getImageData(0, 0, mask.width, mask.height);
      for (let i = 3; i < image.data.length; i += 4) if (image.data[i]) image.data.set([255, 255, 255, 255], i - 3);
      const crop = new OffscreenCanvas(mask.width, mask.height);
      crop.getContext("2d").putImageData(image, 0, 0);
      context.drawImage(crop, mask.x, mask.y);
    }
    this.onMarks();
  }

  /** PNG of the mended mask, base64: white on black, of the camera's size. */
  async mendedMask() {
    const { width, height } = this.brush;
    const flat = new OffscreenCanvas(width, height);
    const context = flat.getContext("2d");
    context.fillRect(0, 0, width, height);
    context.drawImage(this.brush, 0, 0);
    const bytes = new Uint8Array(await (await flat.convertToBlob({ type: "image/png" })).arrayBuffer());
    let text = "";
    for (const byte of bytes) text += String.fromCharCode(byte);
    return btoa(text);
  }

  /** PNG of an empty mask. */
  async emptyMask() {
    const size = this.answers.get(this.shown)?.size;
    if (!size) return "";
    const brush = this.brush;
    this.brush = new OffscreenCanvas(...size);
    const png = await this.mendedMask();
    this.brush = brush;
    return png;
  }

  clearMarks() {
    this.points = [];
    this.box = null;
    this.brush = null;
    this.held = null;
    this.use("");
    this.onMarks();
  }

  #paint(place, erase) {
    const context = this.brush?.getContext("2d");
    if (!context) return;
    context.globalCompositeOperation = erase ? "destination-out" : "source-over";
    context.fillStyle = "#fff";
    context.beginPath();
    context.arc(...place, Math.max(BRUSH * this.brush.width, 2), 0, 7);
    context.fill();
  }

  #mark(place, shift) {
    if (this.tool === "point" || this.tool === "not") {
      this.points.push([...place.map(Math.round), this.tool === "point" && !shift ? 1 : 0]);
    } else if (this.tool === "box") {
      this.corner = this.corner && this.byKey ? this.#endBox(place) : place;
    } else this.#paint(place, this.tool === "erase" || shift);
    this.onMarks();
    this.draw();
  }

  #endBox(place) {
    const [a, b] = [this.corner, place];
    const [x, y] = [Math.min(a[0], b[0]), Math.min(a[1], b[1])].map(Math.floor);
    this.box = [x, y, Math.max(Math.ceil(Math.max(a[0], b[0])) - x, 1), Math.max(Math.ceil(Math.max(a[1], b[1])) - y, 1)];
    return null;
  }

  #down(event) {
    if (!this.source) return;
    const place = this.#place(event);
    if (!this.tool) return this.#choose(place);
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    this.pressed = true;
    this.byKey = false;
    this.shift = event.shiftKey;
    this.#mark(place, event.shiftKey);
  }

  #move(event) {
    if (!this.pressed) return;
    const place = this.#place(event);
    if (this.tool === "box") {
      const corner = this.corner;
      this.#endBox(place);
      this.corner = corner;
    } else if (this.tool === "brush" || this.tool === "erase") {
      this.#paint(place, this.tool === "erase" || this.shift);
    }
    this.draw();
  }

  #up() {
    if (!this.pressed) return;
    this.pressed = false;
    this.corner = null;
    this.onMarks();
    this.draw();
  }

  #key(event) {
    if (!this.tool || !this.cursor) return;
    const step = (event.shiftKey ? 0.05 : 0.01) * this.source.size[0];
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (moves[event.key]) {
      this.cursor = this.cursor.map((value, axis) =>
        Math.min(Math.max(value + step * moves[event.key][axis], 0), this.source.size[axis] - 1));
    } else if (event.key === "Enter" || event.key === " ") {
      this.byKey = true;
      this.#mark([...this.cursor], event.shiftKey);
    } else return;
    event.preventDefault();
    this.draw();
  }

  #choose(place) {
    const masks = this.shown ? [...(this.answers.get(this.shown)?.masks.values() ?? [])] : this.live?.masks ?? [];
    const hit = masks.reverse().find((mask) => {
      const [x, y] = [Math.floor(place[0] - mask.x), Math.floor(place[1] - mask.y)];
      return x >= 0 && y >= 0 && x < mask.width && y < mask.height
        && mask.canvas.getContext("2d").getImageData(x, y, 1, 1).data[3] > 0;
    });
    if (hit) this.onChoose(hit.label);
  }

  draw() {
    const source = this.source;
    if (!source) return;
    const { canvas, context } = this;
    if (canvas.width !== source.bitmap.width || canvas.height !== source.bitmap.height) {
      canvas.width = source.bitmap.width;
      canvas.height = source.bitmap.height;
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.drawImage(source.bitmap, 0, 0);
    const scale = canvas.width / source.size[0];
    context.setTransform(scale, 0, 0, scale, 0, 0);
    if (this.brush && this.shown) {
      context.globalAlpha = 0.55;
      context.drawImage(this.brush, 0, 0);
      context.globalAlpha = 1;
    } else {
      const masks = [...source.masks.values()];
      for (const mask of masks) context.drawImage(mask.canvas, mask.x, mask.y);
      if (masks.length > 1) for (const mask of masks) this.#number(mask, scale);
    }
    this.#drawMarks(scale);
  }

  #number(mask, scale) {
    const { context } = this;
    const size = 18 / scale;
    const [x, y] = [mask.x + mask.width / 2, mask.y + mask.height / 2];
    context.fillStyle = "rgb(0 0 0 / .75)";
    context.fillRect(x - size * 0.6, y - size * 0.7, size * 1.2, size * 1.4);
    context.fillStyle = "#fff";
    context.font = `bold ${size}px sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(mask.label, x, y);
  }

  #drawMarks(scale) {
    const { context } = this;
    context.lineWidth = 2 / scale;
    if (this.box) {
      context.strokeStyle = "#fff";
      context.setLineDash([6 / scale, 4 / scale]);
      context.strokeRect(...this.box);
      context.setLineDash([]);
    }
    for (const [x, y, label] of this.points) {
      context.beginPath();
      context.arc(x, y, 6 / scale, 0, 7);
      context.fillStyle = label ? "#4ccf9f" : "#ff5c39";
      context.fill();
      context.strokeStyle = "#fff";
      context.stroke();
    }
    if (this.tool && this.cursor && document.activeElement === this.canvas) {
      const [x, y] = this.cursor;
      context.strokeStyle = "#fff";
      context.strokeRect(x - 9 / scale, y, 18 / scale, 0.01);
      context.strokeRect(x, y - 9 / scale, 0.01, 18 / scale);
    }
  }
}
