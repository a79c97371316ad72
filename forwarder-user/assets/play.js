// The player: a WHEP session that comes back by itself.

import { Refused, Session } from "./session.js";
import { StatsReader } from "./stats.js";
import { $, Backoff, rows, savedToken, saveToken, show, sleep, table } from "./ui.js";

/** Without bytes for this long the publisher is taken to be away. */
const SILENT_MS = 3000;
/** Between two questions for notes: what a camera sends may turn out later. */
const NOTES_MS = 5000;

const name = decodeURIComponent(location.pathname.split("/").pop());
const endpoint = `${location.pathname}/whep`;
const video = $("video");
const backoff = new Backoff();
let token = savedToken("play");
let session;
let reader;
let connectedSince = 0;
/** What the server says of the stream: parts that browsers do not play. */
let notes = [];
let wake = () => {};

$("stream").textContent = name;
document.title = `${name} · Penstock`;

// For tests and the curious: the connection, its statistics, and the state that is shown.
window.penstock = {
  pc: undefined,
  stats: async () => (reader ? reader.read() : {}),
  restartIce: () => session?.restart(),
  get state() {
    return $("status").dataset.state;
  },
};

async function play() {
  const pc = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
  pc.addTransceiver("video", { direction: "recvonly" });
  pc.addTransceiver("audio", { direction: "recvonly" });
  const media = new MediaStream();
  pc.addEventListener("track", ({ track }) => {
    media.addTrack(track);
    video.srcObject = media;
    start();
  });
  const mine = new Session(pc, endpoint, token);
  session = mine;
  reader = new StatsReader(pc);
  window.penstock.pc = pc;
  mine.onconnected = () => {
    connectedSince ||= performance.now();
    backoff.reset();
    // Over a picture it would stand in the way.
    show("live", "Live", mine.note.startsWith("no picture") ? mine.note : "");
    readNotes();
  };
  mine.onlost = () => show("wait", "Reconnecting", "The connection is interrupted, looking for another path…");
  try {
    await mine.open();
    return await mine.ended;
  } finally {
    mine.close();
    connectedSince = 0;
  }
}

async function readNotes() {
  try {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const reply = await fetch(`api/v1/streams/${encodeURIComponent(name)}/notes`, { headers });
    notes = reply.ok ? (await reply.json()).notes : [];
  } catch {
    // The picture does not depend on it.
  }
}

/** Muted playback is allowed everywhere; sound needs a gesture first. */
async function start() {
  try {
    await video.play();
    offerSound();
  } catch {
    show("wait", "Paused", "This browser does not start videos by itself: press play.");
  }
}

function offerSound() {
  $("unmute").hidden = !video.muted || !video.srcObject?.getAudioTracks().length;
}

$("unmute").addEventListener("click", () => {
  video.muted = false;
  video.play().catch(() => (video.muted = true));
});
video.addEventListener("volumechange", offerSound);

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value;
  saveToken("play", token);
  $("token-form").hidden = true;
  wake();
});

async function refused(error) {
  if (error.status === 401) {
    $("token-form").hidden = false;
    show("error", "Token needed", error.message);
    await new Promise((resolve) => (wake = resolve));
  } else if (error.status === 404) {
    show("wait", "Waiting", "Nobody publishes this stream yet. It starts by itself.");
    await backoff.wait();
  } else if (error.status >= 400 && error.status < 500) {
    show("error", "Refused", error.message);
    await sleep(10_000);
  } else {
    show("wait", "Reconnecting", error.message);
    await Promise.all([backoff.wait(), sleep(1000 * error.retryAfter)]);
  }
}

async function run() {
  for (;;) {
    show("wait", "Connecting", "Connecting…");
    try {
      const reason = await play();
      show("wait", "Reconnecting", `Connecting again: ${reason}`);
      await backoff.wait();
    } catch (error) {
      await refused(error instanceof Refused ? error : new Refused(0, error.message));
    }
  }
}

async function watch() {
  let bytes = 0;
  let changed = performance.now();
  let nextNotes = changed + NOTES_MS;
  for (;;) {
    await sleep(1000);
    if (!connectedSince) {
      table([]);
      continue;
    }
    const stats = await reader.read();
    table([...rows(stats, connectedSince), ...[session?.note, ...notes].map((note) => ["Note", note])]);
    if (performance.now() > nextNotes) {
      nextNotes = performance.now() + NOTES_MS;
      readNotes();
    }
    const now = (stats.video?.bytes ?? 0) + (stats.audio?.bytes ?? 0);
    if (now !== bytes) changed = performance.now();
    bytes = now;
    const lost = ["disconnected", "failed"].includes(window.penstock.pc.iceConnectionState);
    if (!connectedSince || lost) continue;
    if (performance.now() - changed > SILENT_MS) {
      show("wait", "Waiting", "No media arrives. It goes on by itself when the publisher is back.");
    } else if (!video.paused) {
      show("live", "Live");
    }
  }
}

window.addEventListener("pagehide", () => session?.close());
// A page that comes back from the cache has lost its session.
window.addEventListener("pageshow", (event) => event.persisted && location.reload());

run();
watch();
