// The WebSocket to the console: it reconnects by itself, and hands on events and binary frames.

const PREFIX = 13; // bytes: kind, stamp, length of the header
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 3000;
const REFUSED_PAUSE_MS = 15000; // a wrong token does not become right; a place may become free

/** Reads a binary frame: {kind, stamp (text), header, payload (Uint8Array)}. */
export function readFrame(buffer) {
  const view = new DataView(buffer);
  const length = view.getUint32(9);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, PREFIX, length)));
  return {
    kind: view.getUint8(0),
    stamp: view.getBigUint64(1).toString(),
    header,
    payload: new Uint8Array(buffer, PREFIX + length),
  };
}

export class Connection {
  /** onEvent(event), onFrame(frame), onState(connected, reason). */
  constructor({ onEvent, onFrame, onState }) {
    Object.assign(this, { onEvent, onFrame, onState });
    this.pause = FIRST_PAUSE_MS;
    this.token = readToken();
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(`${scheme}//${location.host}/ws`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.send("hello", { token: this.token });
    this.socket.onmessage = ({ data }) => {
      if (typeof data !== "string") return this.onFrame(readFrame(data));
      const event = JSON.parse(data);
      if (event.type === "hello") {
        this.pause = FIRST_PAUSE_MS;
        this.reason = "";
        this.onState(true, "");
      }
      if (event.type === "refused") {
        this.reason = event.text;
        this.pause = REFUSED_PAUSE_MS;
      }
      this.onEvent(event);
    };
    this.socket.onclose = () => {
      this.onState(false, this.reason ?? "");
      setTimeout(() => this.open(), this.pause);
      this.pause = Math.min(this.pause * 1.6, LONGEST_PAUSE_MS);
    };
  }

  send(type, fields = {}) {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify({ type, ...fields }));
    return true;
  }
}

/** The token of the address, kept for this tab only and taken out of the address. */
function readToken() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (found) {
    sessionStorage.setItem("token", found);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("token") ?? "";
}
