// A WHIP or WHEP session (RFC 9725), with this server or any other.

/** The server needs no candidate of ours, it learns our addresses from our checks: none is waited for. */
const GATHER_MS = 150;
/** A path that is lost for so long is looked for anew. */
const LOST_MS = 2000;
/** Without a connection by now, relays are tried, if the server has named some. */
const RELAY_MS = 3000;
/** A first connection, or an ICE restart, that takes longer is given up; so is a request. */
const CONNECT_MS = 10_000;

export const sleep = (time) => new Promise((done) => setTimeout(done, time));
const find = (text, what) => text.match(what) ?? [];

/** The server said no; `status` is 0 if it was not reached. The message is for people. */
export class Refused extends Error {
  constructor(status, message, retryAfter = 0) {
    super(message);
    Object.assign(this, { status, retryAfter });
  }
}

/** A refusal is plain text, or a problem by RFC 9457; a proxy's HTML says nothing to a viewer. */
export async function refusal(reply) {
  const type = reply.headers.get("Content-Type");
  let text = (await reply.text()).trim();
  if (/json/.test(type)) {
    const { title, detail } = await new Response(text).json().catch(() => ({}));
    // A title in capitals only repeats the status ("Not Acceptable"): that is for engineers.
    const repeats = detail && /^([A-Z][\w'-]* ?)+$/.test(title);
    text = [!repeats && title, detail].filter(Boolean).join("\n");
  }
  const words = /html/.test(type) ? "" : text.slice(0, 600);
  const retryAfter = Number(reply.headers.get("Retry-After")) || 0;
  return new Refused(reply.status, words || `The server answers ${reply.status} ${reply.statusText}`, retryAfter);
}

/** Offer by POST, ICE restart by PATCH, end by DELETE. */
export class Session {
  #pc;
  #endpoint;
  #token;
  #timer;
  #end;
  #restarting = false;
  #over = new AbortController();
  /** Its URL, while it is there and the server has told one. */
  resource = "";
  /** What this browser cannot play of the stream, and what to do about it, by the server. */
  note = "";
  /** Resolves with a reason once the session is over. */
  ended = new Promise((end) => (this.#end = end));
  onconnected = () => {};
  /** The path is lost and being looked for. */
  onlost = () => {};

  constructor(pc, endpoint, token = "") {
    [this.#pc, this.#endpoint, this.#token] = [pc, new URL(endpoint, document.baseURI).href, token];
    for (const type of ["iceconnectionstatechange", "connectionstatechange"]) {
      pc.addEventListener(type, () => this.#changed());
    }
    addEventListener("online", () => this.restart(), { signal: this.#over.signal });
  }

  /** Opens it. Throws `Refused`. */
  async open() {
    const pc = this.#pc;
    const offer = await pc.createOffer();
    await pc.setLocalDescription({ type: "offer", sdp: stereo(offer.sdp) }).catch(() => pc.setLocalDescription(offer));
    const reply = await this.#send("POST", this.#endpoint, "application/sdp", (sdp) => sdp);
    this.note = reply.headers.get("Penstock-Note") ?? "";
    const location = reply.headers.get("Location");
    if (location) this.resource = resourceAt(location, this.#endpoint);
    try {
      const sdp = await reply.text();
      if (reply.status === 406) await this.#accept(sdp);
      else await pc.setRemoteDescription({ type: "answer", sdp });
    } catch (error) {
      this.close();
      if (error instanceof Refused) throw error;
      throw new Refused(0, `This browser cannot use the server's answer: ${error.message}`);
    }
    this.#giveUpLater();
    const iceServers = relays(reply.headers.get("Link") ?? "");
    if (iceServers.length) {
      pc.setConfiguration({ ...pc.getConfiguration(), iceServers });
      this.#after(RELAY_MS, () => this.restart());
    }
    for (const { transport } of [...pc.getReceivers(), ...pc.getSenders()]) {
      transport?.addEventListener("statechange", () => {
        if (/closed|failed/.test(transport.state)) this.#finish("The server has closed the connection.");
      });
    }
  }

  /** A counter-offer: the server would rather ask (draft-ietf-wish-whep-04). */
  async #accept(sdp) {
    const pc = this.#pc;
    await pc.setLocalDescription({ type: "rollback" });
    await pc.setRemoteDescription({ type: "offer", sdp });
    await pc.setLocalDescription(await pc.createAnswer());
    await this.#send("PATCH", this.resource, "application/sdp", (answer) => answer);
  }

  /** Ends the session here and at the server; safe while the page is being left. */
  close(reason = "Closed.") {
    if (this.resource) {
      fetch(this.resource, { method: "DELETE", headers: this.#headers(), keepalive: true }).catch(() => {});
    }
    this.#finish(reason);
  }

  #finish(reason) {
    this.resource = "";
    clearTimeout(this.#timer);
    this.#over.abort();
    this.#pc.close();
    this.#end(reason);
  }

  #after(time, act) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(act, time);
  }

  #giveUpLater() {
    this.#after(CONNECT_MS, () => {
      const candidates = this.#pc.remoteDescription?.sdp.matchAll(/^a=candidate:\S+ 1 (\S+) \d+ (\S+) (\d+)/gm) ?? [];
      const ways = new Set([...candidates].map(([, how, to, port]) => `${how.toUpperCase()} to ${to} port ${port}`));
      const allow = `If it goes on, ask whoever runs your network to allow ${[...ways].join(", or ")}.`;
      this.close(`No media gets through. ${ways.size ? allow : ""}`);
    });
  }

  #changed() {
    const { connectionState, iceConnectionState } = this.#pc;
    if (/disconnected|failed/.test(iceConnectionState)) {
      this.onlost();
      this.#after(iceConnectionState === "failed" ? 0 : LOST_MS, () => this.restart());
    } else if (connectionState === "connected") {
      clearTimeout(this.#timer);
      this.onconnected();
    }
  }

  /** Looks for a new path with the same keys; without success the session ends. */
  async restart() {
    if (this.#restarting || !this.resource) return;
    this.#restarting = true;
    const pc = this.#pc;
    // A restart of a path that works changes no state by which its success could be seen.
    if (!/^(connected|completed)$/.test(pc.iceConnectionState)) this.#giveUpLater();
    try {
      await pc.setLocalDescription(await pc.createOffer({ iceRestart: true }));
      const reply = await this.#send("PATCH", this.resource, "application/trickle-ice-sdpfrag", fragmentOf);
      const sdp = withIce(pc.currentRemoteDescription.sdp, await reply.text());
      await pc.setRemoteDescription({ type: "answer", sdp });
    } catch (error) {
      this.close(`The connection was lost. ${error.message}`);
    }
    this.#restarting = false;
  }

  #headers(more = {}) {
    return this.#token ? { ...more, Authorization: `Bearer ${this.#token}` } : more;
  }

  /** Sends a part of the local description. */
  async #send(method, url, type, part) {
    const pc = this.#pc;
    for (let waited = 0; pc.iceGatheringState !== "complete" && waited < GATHER_MS; waited += 25) await sleep(25);
    const headers = this.#headers({ "Content-Type": type, ...(method === "PATCH" && { "If-Match": "*" }) });
    const body = part(pc.localDescription.sdp);
    const signal = AbortSignal.timeout?.(CONNECT_MS);
    const reply = await fetch(url, { method, headers, signal, body }).catch(() => {
      throw new Refused(0, "The server cannot be reached.");
    });
    const counterOffer = reply.status === 406 && /^application\/sdp/.test(reply.headers.get("Content-Type"));
    if (!reply.ok && !counterOffer) throw await refusal(reply);
    return reply;
  }
}

/** Both channels of Opus (RFC 7587 §6.1): a browser asks for one. */
function stereo(sdp) {
  if (!/^a=recvonly/m.test(sdp)) return sdp;
  const [, opus] = find(sdp, /^a=rtpmap:(\d+) opus\/48000\/2/im);
  return sdp.replace(new RegExp(`^a=fmtp:${opus} (?!.*\\bstereo=).+`, "m"), "$&;stereo=1");
}

/** The session is below its endpoint, also where a proxy serves that under a path unknown to the server. */
function resourceAt(location, endpoint) {
  const [given, base] = [new URL(location, endpoint), new URL(endpoint)];
  const at = given.pathname.lastIndexOf("/");
  const below = at > 0 && base.pathname.endsWith(given.pathname.slice(0, at));
  return below ? base.origin + base.pathname + given.pathname.slice(at) : given.href;
}

/** Servers of `Link: <turn:…>; rel="ice-server"; username="…"; credential="…"` (RFC 9725 §4.6). */
function relays(links) {
  return [...links.matchAll(/<([^>]+)>([^<]*)/g)]
    .filter(([, , rest]) => /rel="?ice-server/.test(rest))
    .map(([, urls, rest]) => ({
      urls,
      username: find(rest, /username="([^"]*)"/)[1],
      credential: find(rest, /credential="([^"]*)"/)[1],
    }));
}

/** The ICE part of an offer (RFC 8840 §9): bundled, so that of the first section. */
function fragmentOf(sdp) {
  const [session, first] = sdp.split(/^(?=m=)/m);
  const ice = first.match(/^(m=|a=(mid|ice-ufrag|ice-pwd|candidate|end-of-candidates)).*/gm);
  return [...find(session, /^a=group:BUNDLE.*/m), ...ice, ""].join("\r\n");
}

/** A former answer with credentials and candidates of the server's fragment. */
function withIce(answer, fragment) {
  if (!/^a=ice-ufrag:/m.test(fragment)) throw new Error("The server does not restart ICE.");
  const candidates = find(fragment, /^a=candidate:.*/gm);
  if (candidates.length) answer = answer.replace(/^a=candidate:.*\r\n/gm, "");
  return answer
    .replace(/^a=(ice-ufrag|ice-pwd):.*/gm, (line, key) => find(fragment, new RegExp(`^a=${key}:.*`, "m"))[0] ?? line)
    .replace(/^a=mid:.*/gm, (line) => [line, ...candidates].join("\r\n"));
}
