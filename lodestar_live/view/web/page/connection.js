// The socket to the viewer's server: ask, decode, draw, ask again; reconnect when lost.

const RETRY_MS = [250, 500, 1000, 2000];

/** The key of the session stands after the # of the address, where it has one. */
const FEED = `ws://${location.host}/feed${location.hash ? `?token=${encodeURIComponent(location.hash.slice(1))}` : ""}`;

/** This page's own random name: kept through a reload, another one in each tab. */
function ownName() {
  try {
    const name = sessionStorage.getItem("page") ?? crypto.randomUUID();
    sessionStorage.setItem("page", name);
    return name;
  } catch { // storage is blocked: a new name after each reload
    return crypto.randomUUID();
  }
}

/** Split one binary message into parts: {topic, ...facts, bytes | columns}. */
export function unpack(buffer) {
  const headSize = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, headSize)));
  const bodies = Math.ceil((4 + headSize) / 8) * 8;
  for (const part of head.parts) {
    const at = bodies + part.offset;
    if (part.columns) {
      part.rows = {};
      part.columns.forEach((name, i) => {
        part.rows[name] = new Float64Array(buffer, at + 8 * i * part.n, part.n);
      });
    } else {
      part.bytes = new Uint8Array(buffer, at, part.size);
    }
  }
  return head.parts;
}

export class Connection {
  /**
   * onParts(parts) is awaited before the next state is asked for; wish() returns what
   * to ask with; onState("open" | "lost") tells about the server.
   */
  constructor({ onParts, onReply, onState, wish = () => ({}) }) {
    Object.assign(this, { onParts, onReply, onState, wish });
    this.tries = 0;
    this.commandId = 0;
    this.page = ownName();
    this.connect();
    document.addEventListener("visibilitychange", () => this.followVisibility());
  }

  connect() {
    this.socket = new WebSocket(FEED);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => {
      this.tries = 0;
      this.onState("open");
      this.ask();
    };
    this.socket.onmessage = (event) => this.take(event.data);
    this.socket.onclose = () => this.lose();
  }

  ask() {
    if (this.socket.readyState === WebSocket.OPEN) {
      this.socket.send(JSON.stringify({ type: "next", page: this.page, ...this.wish() }));
    }
  }

  /** The wish has changed: ask again, the server answers the newest wish only. */
  nudge() {
    if (this.isNudged) return;
    this.isNudged = true;
    requestAnimationFrame(() => {
      this.isNudged = false;
      this.ask();
    });
  }

  async take(data) {
    if (typeof data === "string") {
      this.onReply(JSON.parse(data));
      return;
    }
    await this.onParts(unpack(data));
    // A hidden page gets no animation frames, so it asks for nothing: no load on anyone.
    requestAnimationFrame(() => this.ask());
  }

  /** Done for good: no reconnection. */
  close() {
    this.isClosed = true;
    this.socket.close();
  }

  lose() {
    if (document.hidden || this.isClosed) return; // on purpose
    this.onState("lost");
    const wait = RETRY_MS[Math.min(this.tries++, RETRY_MS.length - 1)];
    setTimeout(() => this.connect(), wait);
  }

  /** A hidden page closes the socket, so that no image is encoded for nobody. */
  followVisibility() {
    if (document.hidden) this.socket.close();
    else if (this.socket.readyState > WebSocket.OPEN && !this.isClosed) this.connect();
  }

  /** Send a command; the reply arrives at onReply. False: not connected. */
  command(verb, args = {}) {
    if (this.socket.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify({ type: "command", id: ++this.commandId, page: this.page, verb, args }));
    return true;
  }
}
