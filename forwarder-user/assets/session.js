// A WHIP or WHEP session (RFC 9725): offer by POST, ICE restart by PATCH, end by DELETE.

import { sleep } from "./ui.js";

/** How long candidates are gathered before the offer goes out. The server is ICE-lite at a public
 *  address and learns ours from our checks, so none is needed. */
const GATHER_MS = 150;
/** A path that is lost for this long is looked for anew. */
const DISCONNECTED_MS = 2000;
/** An ICE restart, or the first connection, that takes longer is given up. */
const CONNECT_MS = 10_000;
const REQUEST_MS = 15_000;

/** A refusal by the server: `status` 0 if it could not be reached. */
export class Refused extends Error {
  constructor(status, reason, retryAfter = 0) {
    super(reason);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export class Session {
  #pc;
  #endpoint;
  #token;
  #resource = "";
  #timer = 0;
  #restarting = false;
  #end;

  /** Resolves with a reason once the session is over. */
  ended;
  /** What this browser cannot play of the stream, and what to do about it; the rest plays. */
  note = "";
  onconnected = () => {};
  /** The path is lost and being looked for. */
  onlost = () => {};

  constructor(pc, endpoint, token) {
    this.#pc = pc;
    this.#endpoint = endpoint;
    this.#token = token;
    this.ended = new Promise((resolve) => (this.#end = resolve));
    pc.addEventListener("iceconnectionstatechange", () => this.#iceChanged());
    pc.addEventListener("connectionstatechange", () => this.#connectionChanged());
  }

  /** Opens the session. Throws `Refused`. */
  async open() {
    await this.#pc.setLocalDescription(await this.#pc.createOffer());
    await this.#gather();
    const reply = await this.#send("POST", this.#endpoint, "application/sdp", this.#pc.localDescription.sdp);
    this.note = reply.headers.get("Penstock-Note") ?? "";
    // The last segment, so that a proxy may serve us under another path.
    const id = (reply.headers.get("Location") ?? "").split("/").pop();
    this.#resource = `${this.#endpoint}/${id}`;
    try {
      await this.#pc.setRemoteDescription({ type: "answer", sdp: await reply.text() });
    } catch (error) {
      this.close();
      throw new Refused(0, `This browser cannot use the server's answer: ${error.message}`);
    }
    this.#watch(CONNECT_MS, "no connection: is the server's UDP port reachable from here?");
    for (const { transport } of [...this.#pc.getReceivers(), ...this.#pc.getSenders()]) {
      transport?.addEventListener("statechange", () => {
        if (transport.state === "closed" || transport.state === "failed") this.#over("closed by the server");
      });
    }
  }

  /** Ends the session here and at the server; safe while the page is being left. */
  close(reason = "closed") {
    if (this.#resource) {
      fetch(this.#resource, { method: "DELETE", headers: this.#headers(), keepalive: true }).catch(() => {});
      this.#resource = "";
    }
    this.#over(reason);
  }

  #over(reason) {
    clearTimeout(this.#timer);
    this.#pc.close();
    this.#end(reason);
  }

  /** Ends the session unless the connection comes up in time. */
  #watch(time, reason) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.close(reason), time);
  }

  #connectionChanged() {
    if (this.#pc.connectionState === "connected") {
      clearTimeout(this.#timer);
      this.onconnected();
    }
  }

  #iceChanged() {
    const state = this.#pc.iceConnectionState;
    if (state === "connected" || state === "completed") {
      clearTimeout(this.#timer);
      if (this.#pc.connectionState === "connected") this.onconnected();
    } else if (state === "disconnected") {
      this.onlost();
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.restart(), DISCONNECTED_MS);
    } else if (state === "failed") {
      this.onlost();
      this.restart();
    }
  }

  /** Looks for a new path with the same keys; without success the session ends. */
  async restart() {
    if (this.#restarting || !this.#resource) return;
    this.#restarting = true;
    // A restart of a path that works changes no state by which its success could be seen.
    if (this.#pc.iceConnectionState !== "connected") this.#watch(CONNECT_MS, "the connection was lost");
    try {
      await this.#pc.setLocalDescription(await this.#pc.createOffer({ iceRestart: true }));
      await this.#gather();
      const fragment = toFragment(this.#pc.localDescription.sdp);
      const reply = await this.#send("PATCH", this.#resource, "application/trickle-ice-sdpfrag", fragment, "*");
      const sdp = withIce(this.#pc.currentRemoteDescription.sdp, await reply.text());
      await this.#pc.setRemoteDescription({ type: "answer", sdp });
    } catch (error) {
      this.close(`the connection was lost: ${error.message}`);
    }
    this.#restarting = false;
  }

  async #gather() {
    const complete = new Promise((resolve) => {
      const check = () => this.#pc.iceGatheringState === "complete" && resolve();
      this.#pc.addEventListener("icegatheringstatechange", check);
      check();
    });
    await Promise.race([complete, sleep(GATHER_MS)]);
  }

  #headers(more = {}) {
    return this.#token ? { ...more, Authorization: `Bearer ${this.#token}` } : more;
  }

  async #send(method, url, type, body, ifMatch) {
    const headers = this.#headers({ "Content-Type": type });
    if (ifMatch) headers["If-Match"] = ifMatch;
    let reply;
    try {
      reply = await fetch(url, { method, headers, body, signal: AbortSignal.timeout(REQUEST_MS) });
    } catch {
      throw new Refused(0, "The server cannot be reached.");
    }
    if (reply.ok) return reply;
    const retryAfter = Number(reply.headers.get("Retry-After")) || 0;
    throw new Refused(reply.status, (await words(reply)) || reply.statusText, retryAfter);
  }
}

/** What a refusal says: a text, or problem details (RFC 9457). */
async function words(reply) {
  const text = (await reply.text()).trim();
  if (!(reply.headers.get("Content-Type") ?? "").includes("json")) return text;
  try {
    return JSON.parse(text).detail ?? "";
  } catch {
    return text;
  }
}

const lines = (sdp) => sdp.split(/\r?\n/).filter((line) => line !== "");

/** The ICE part of an offer as an SDP fragment (RFC 8840 §9): bundled, so of the first section. */
export function toFragment(sdp) {
  const all = lines(sdp);
  const group = all.find((line) => line.startsWith("a=group:BUNDLE"));
  const from = all.findIndex((line) => line.startsWith("m="));
  const rest = all.slice(from + 1);
  const next = rest.findIndex((line) => line.startsWith("m="));
  const section = next < 0 ? rest : rest.slice(0, next);
  const kept = section.filter((line) => /^a=(mid|ice-ufrag|ice-pwd|candidate|end-of-candidates)/.test(line));
  return [group, all[from], ...kept, ""].filter((line) => line !== undefined).join("\r\n");
}

/** A former answer with the credentials and candidates of the server's fragment. */
export function withIce(answer, fragment) {
  const given = lines(fragment);
  const find = (prefix) => given.find((line) => line.startsWith(prefix));
  const [ufrag, pwd] = [find("a=ice-ufrag:"), find("a=ice-pwd:")];
  if (!ufrag || !pwd) throw new Error("the server's answer has no ICE credentials");
  const candidates = given.filter((line) => line.startsWith("a=candidate:"));
  const result = [];
  for (const line of lines(answer)) {
    if (line.startsWith("a=ice-ufrag:")) result.push(ufrag);
    else if (line.startsWith("a=ice-pwd:")) result.push(pwd);
    else if (line.startsWith("a=candidate:") && candidates.length) continue;
    else result.push(line);
    if (line.startsWith("a=mid:")) result.push(...candidates);
  }
  return [...result, ""].join("\r\n");
}
