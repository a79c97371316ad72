// A stream in a video: connects, says what is to be seen, and comes back by itself.

import { Session, sleep } from "./session.js";

/** The server that this module came from: its pages and its API are known. */
const ROOT = new URL("..", import.meta.url).href;
/** A picture that stands still for so long is not live, unless its frames are that rare; never for longer than this. */
const STILL_MS = 3000;
const RARE_MS = 10_000;

/** Where a stream is played: of this server, its page will do. */
function endpointOf(src) {
  const url = new URL(src, document.baseURI);
  const ours = url.href.startsWith(ROOT);
  const token = (ours && (url.searchParams.get("token") ?? url.searchParams.get("jwt"))) || "";
  if (ours) [url.search, url.hash] = ["", ""];
  if (ours && !/\/whep\/?$/.test(url.pathname)) url.pathname = url.pathname.replace(/\/*$/, "/whep");
  return [url.href, token];
}

/** Types and descriptions are in player.d.ts. */
export class Player extends EventTarget {
  #video;
  #endpoint;
  #token;
  #session;
  #run;
  #connected = false;
  #paused = false;
  #wait = 1000;
  #told = "";
  /** See `State` in player.d.ts. */
  state = "idle";
  message = "";
  status = 0;
  blocked = "";
  notes = [];
  pc;

  constructor(video, src, { token = "" } = {}) {
    super();
    this.#video = video;
    const [endpoint, given] = endpointOf(src);
    [this.#endpoint, this.#token] = [endpoint, token || given];
  }

  /** Connects, and shows the picture as soon as there is one. */
  start() {
    if (this.#run) return;
    if (typeof RTCPeerConnection === "undefined") {
      this.#show("unsupported", "This browser cannot play live streams: it has no WebRTC, or it is switched off.");
      return;
    }
    this.#run = new AbortController();
    const { signal } = this.#run;
    this.#listen(signal);
    this.#keepOn(signal);
  }

  #listen(signal) {
    const on = (target, type, act) => target.addEventListener(type, act, { signal });
    // Some browsers stop the picture of a page that nobody sees; else it was the viewer.
    let stopped = false;
    on(this.#video, "pause", () => {
      stopped = document.hidden;
      if (!stopped && this.#connected) this.#paused = true;
    });
    on(this.#video, "play", () => (this.#paused = false));
    on(document, "visibilitychange", () => stopped && !document.hidden && this.play());
    on(window, "pagehide", () => this.#session?.close());
  }

  stop() {
    this.#run?.abort();
    this.#run = undefined;
    this.#session?.close();
    this.#show("idle");
  }

  /** Starts the picture; if the browser refuses sound before a gesture, without sound. */
  async play() {
    this.start();
    const video = this.#video;
    if (!video.srcObject) return;
    let refused = "";
    try {
      await video.play().catch((error) => {
        if (error.name !== "NotAllowedError" || video.muted) throw error;
        [video.muted, refused] = [true, "sound"];
        return video.play();
      });
    } catch (error) {
      // Anything else means that another source came, which is started as well.
      if (error.name !== "NotAllowedError") return;
      refused = "picture";
    }
    if (refused === this.blocked) return;
    this.blocked = refused;
    this.dispatchEvent(new Event("blocked"));
  }

  restartIce() {
    return this.#session?.restart();
  }

  #show(state, message = "", status = 0) {
    if (state === this.state && message === this.message) return;
    Object.assign(this, { state, message, status });
    this.dispatchEvent(new CustomEvent("statechange", { detail: { state, message, status } }));
  }

  /** One session after the other, until `stop`. */
  async #keepOn(signal) {
    this.#show("connecting", "Connecting…");
    while (!signal.aborted) {
      const pause = await this.#once(signal).catch((error) => !signal.aborted && this.#explain(error));
      if (this.state === "unsupported") return;
      await sleep(Math.max(pause, this.#wait * (0.75 + Math.random() / 2)));
      this.#wait = Math.min(2 * this.#wait, 10_000);
    }
  }

  async #once(signal) {
    const pc = (this.pc = new RTCPeerConnection({ bundlePolicy: "max-bundle" }));
    const session = (this.#session = new Session(pc, this.#endpoint, this.#token));
    const media = new MediaStream();
    pc.addEventListener("track", ({ track }) => media.addTrack(track));
    session.onconnected = () => ((this.#connected = true), (this.#wait = 1000));
    session.onlost = () => {
      this.#connected = false;
      this.#show("reconnecting", "The connection is interrupted, looking for another path…");
    };
    try {
      for (const kind of ["video", "audio"]) pc.addTransceiver(kind, { direction: "recvonly" });
      await session.open();
      if (signal.aborted) return 0;
      this.#note([]);
      this.#video.srcObject = media;
      if (!this.#paused) this.play();
      this.#watch(pc, session);
      const reason = await session.ended;
      if (!signal.aborted) this.#show("reconnecting", `${reason} Connecting again…`);
      return 0;
    } finally {
      this.#connected = false;
      session.close();
    }
  }

  /** Says why there is no session; how long to wait until the next. */
  #explain({ name, status = 0, message, retryAfter = 0 }) {
    if (name === "NotSupportedError" || name === "ReferenceError") {
      this.#show("unsupported", `This browser cannot play live streams: ${message}`);
    } else if (status === 401 || status === 403) {
      this.#show("refused", message, status);
      return 30_000;
    } else if (status === 404 || status === 409) {
      this.#show("waiting", "Nobody publishes this stream at the moment. It starts by itself.", status);
    } else if (status >= 400 && status < 500 && status !== 408 && status !== 429) {
      this.#show("refused", message, status);
      return 10_000;
    } else {
      this.#show("reconnecting", message, status);
    }
    return 1000 * retryAfter;
  }

  /** Says "live" while frames come, or sound of a stream without a picture, and otherwise what is known. */
  async #watch(pc, session) {
    const begun = performance.now();
    let [last, moved, usual, ask, every] = [{}, begun, 0, 0, 2000];
    const arrived = { video: -STILL_MS, audio: -STILL_MS };
    while (pc.connectionState !== "closed") {
      const [seen, now] = [await progress(pc), performance.now()];
      for (const kind of ["video", "audio"]) if (seen[kind] > (last[kind] ?? 0)) arrived[kind] = now;
      // Of a page that nobody sees, browsers may stop decoding.
      const undecoded = document.hidden && seen.video !== last.video;
      if (seen.count !== last.count || undecoded) [moved, usual] = [now, last.count ? now - moved : 0];
      last = seen;
      const still = now - moved > Math.max(STILL_MS, Math.min(2.5 * usual, RARE_MS));
      if (this.#connected && pc === this.pc) {
        if (now > ask) {
          every = still ? STILL_MS : Math.min(2 * every, 60_000);
          ask = now + every;
          this.#ask(session);
        }
        const [video, audio] = [now - arrived.video < STILL_MS, now - arrived.audio < STILL_MS];
        const blind = !seen.video && (!takesVideo(pc) || now - begun > STILL_MS);
        this.#judge(seen.count, still, video ? "picture" : audio ? "sound" : "", blind);
      }
      await sleep(this.state === "live" ? 1000 : 250);
    }
  }

  /** `blind`: there is sound alone, and no picture to speak for itself. */
  #judge(count, still, arrives, blind) {
    if (this.blocked === "picture" && this.#video.paused) {
      this.#show("blocked", "This browser does not start videos by itself. Tap to play.");
    } else if (still && arrives === "picture") {
      this.#show("waiting", "A picture arrives that this browser cannot show. It goes on by itself if that changes.");
    } else if (still && arrives === "sound") {
      this.#show("waiting", "Sound arrives, but no picture. It goes on by itself.");
    } else if (still) {
      this.#show("waiting", this.#told || "No media arrives. It goes on by itself.");
    } else if (count) {
      const words = blind ? ["Sound only", ...this.notes].join("\n") : "";
      this.#show(this.#video.paused ? "paused" : "live", words);
    } else if (this.state !== "waiting") {
      this.#show("connecting", "Connected. Waiting for the first picture…");
    }
  }

  /** What the server knows of this session: for viewers, so without a right but to know its name. */
  async #ask({ resource }) {
    if (!resource.startsWith(ROOT)) return;
    const reply = await fetch(`${ROOT}api/v1/own-session/${resource.split("/").pop()}`).catch(() => {});
    if (!reply?.ok) return;
    const { message, notes } = await reply.json();
    this.#told = message;
    this.#note(notes);
  }

  #note(notes) {
    const all = [this.#session.note, ...notes].filter(Boolean);
    if (String(all) === String(this.notes)) return;
    this.notes = all;
    this.dispatchEvent(new Event("notes"));
  }
}

/** Whether a picture was agreed on. */
function takesVideo(pc) {
  return pc.getTransceivers().some((one) => one.receiver.track.kind === "video" && /recv/.test(one.currentDirection));
}

/** Bytes received, and what grows while there is something to see, or to hear of a stream without a picture. */
async function progress(pc) {
  const sum = { audio: 0, video: 0, frames: 0 };
  for (const entry of (await pc.getStats()).values()) {
    if (entry.type !== "inbound-rtp") continue;
    sum[entry.kind] += entry.bytesReceived ?? 0;
    sum.frames += entry.framesDecoded ?? 0;
  }
  return { ...sum, count: sum.video ? sum.frames : sum.audio };
}
