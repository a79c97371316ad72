// Publishing from the browser: a WHIP session with the camera, the microphone or the screen.

import { capture, listCodecs, listDevices, obstacle, send, warning } from "./capture.js";
import { Refused, Session } from "./session.js";
import { StatsReader } from "./stats.js";
import { $, Backoff, PATH, ROOT, nameOf, savedToken, saveToken, show, sleep } from "./ui.js";
import { arrivals, duration, rows, table } from "./table.js";

const stream = PATH.replace(/\/publish$/, "");
const name = nameOf(stream);
const backoff = new Backoff();
const video = $("video");
let media;
let session;
let reader;
let connectedSince = 0;
let wanted = false;

// For tests and the curious: the connection, its statistics, and the state that is shown.
window.penstock = {
  pc: undefined,
  stats: async () => (reader ? reader.read() : {}),
  restartIce: () => session?.restart(),
  get state() {
    return $("status").dataset.state;
  },
};

function begin() {
  $("stream").textContent = name;
  document.title = `Publish ${name} · Penstock`;
  $("watch").href = stream;
  $("watch").textContent = new URL(stream, location.href).href;
  $("token").value = savedToken("publish");
  $("token-label").hidden = $("token").value === "";
  if (!navigator.mediaDevices?.getDisplayMedia) $("source").querySelector("[value=screen]").disabled = true;
  listCodecs();
  const why = obstacle();
  if (!why) return look();
  $("start").disabled = true;
  tell(why);
  show("error", "Cannot publish", "");
}

function tell(why) {
  $("why-not").textContent = why;
  $("why-not").hidden = !why;
}

/** What there is, and what will be missing. */
function look() {
  listDevices();
  warning().then(tell, () => tell(""));
}

async function publish() {
  const pc = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
  const mine = new Session(pc, `${stream}/whip`, $("token").value);
  session = mine;
  reader = new StatsReader(pc);
  window.penstock.pc = pc;
  mine.onconnected = () => {
    connectedSince ||= performance.now();
    backoff.reset();
    show("live", "Publishing");
  };
  mine.onlost = () => show("wait", "Reconnecting", "The connection is interrupted, looking for another path…");
  try {
    send(pc, media);
    await mine.open();
    return await mine.ended;
  } finally {
    mine.close();
    connectedSince = 0;
  }
}

async function refused(error) {
  if (error.status === 401 || error.status === 403) {
    $("token-label").hidden = false;
    stop("error", error.status === 401 ? "Token needed" : "Not allowed", error.message);
    $("token").focus();
  } else if (error.status >= 400 && error.status < 500 && ![408, 409, 429].includes(error.status)) {
    stop("error", "Refused", error.message);
  } else {
    show("wait", "Waiting", `${error.message}\nTrying again…`);
    await Promise.all([backoff.wait(), sleep(1000 * error.retryAfter)]);
  }
}

async function run() {
  while (wanted) {
    show("wait", "Connecting", "Connecting…");
    try {
      const reason = await publish();
      if (!wanted) break;
      show("wait", "Reconnecting", `${reason} Connecting again…`);
      await backoff.wait();
    } catch (error) {
      if (wanted) await refused(error instanceof Refused ? error : new Refused(0, error.message));
    }
  }
}

async function start() {
  show("wait", "Starting", "Waiting for the device…");
  $("start").disabled = true;
  try {
    media = await capture();
  } catch (error) {
    stop("error", "Not publishing", error.message);
    return;
  }
  tell("");
  listDevices();
  saveToken("publish", $("token").value);
  // "Stop sharing" of the browser, or an unplugged camera.
  for (const track of media.getTracks()) {
    track.addEventListener("ended", () => stop("idle", "Not publishing", "The device or window was closed."));
  }
  video.srcObject = media;
  wanted = true;
  backoff.reset();
  swap("start", "stop");
  $("choices").disabled = true;
  run();
}

function stop(state, word, message) {
  wanted = false;
  session?.close();
  media?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  $("start").disabled = false;
  swap("stop", "start");
  $("choices").disabled = false;
  show(state, word, message);
}

/** One button in place of another, which whoever uses the keyboard does not lose. */
function swap(from, to) {
  const focused = document.activeElement === $(from) || document.activeElement === document.body;
  [$(from).hidden, $(to).hidden] = [true, false];
  if (focused) $(to).focus();
}

/** What the server gets of it; it may know nothing yet. */
async function arrived() {
  const id = session?.resource.split("/").pop();
  if (!id) return [];
  const reply = await fetch(`${ROOT}api/v1/own-session/${id}`).catch(() => undefined);
  return reply?.ok ? arrivals(await reply.json()) : [];
}

async function watch() {
  for (;;) {
    await sleep(1000);
    if (!connectedSince) {
      table([]);
      continue;
    }
    const [here, there] = await Promise.all([reader.read(), arrived()]);
    table([...rows(here), ...there, ["Connected for", duration(performance.now() - connectedSince)]]);
  }
}

$("controls").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!wanted) start();
});
$("stop").addEventListener("click", () => stop("idle", "Not publishing", "Stopped."));
$("source").addEventListener("change", () => {
  $("camera-label").hidden = !["camera", "picture"].includes($("source").value);
  $("microphone-label").hidden = !["camera", "microphone"].includes($("source").value);
  $("more").hidden = $("source").value === "microphone";
  look();
});
navigator.mediaDevices?.addEventListener?.("devicechange", look);
window.addEventListener("pagehide", () => session?.close());
window.addEventListener("pageshow", (event) => event.persisted && location.reload());

begin();
watch();
