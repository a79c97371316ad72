// Publishing from the browser: a WHIP session with the camera, the microphone or the screen.

import { Refused, Session } from "./session.js";
import { StatsReader } from "./stats.js";
import { $, Backoff, rows, savedToken, saveToken, show, sleep, table } from "./ui.js";

const base = location.pathname.replace(/\/publish\/?$/, "");
const name = decodeURIComponent(base.replace(/^\/+/, ""));
const backoff = new Backoff();
const video = $("video");
let media;
let session;
let reader;
let connectedSince = 0;
let wanted = false;

$("stream").textContent = name;
document.title = `Publish ${name} · Penstock`;
$("watch").href = base;
$("watch").textContent = new URL(base, location.href).href;
$("token").value = savedToken("publish");
$("token-label").hidden = $("token").value === "";

// For tests and the curious: the connection, its statistics, and the state that is shown.
window.penstock = {
  pc: undefined,
  stats: async () => (reader ? reader.read() : {}),
  restartIce: () => session?.restart(),
  get state() {
    return $("status").dataset.state;
  },
};

const REASONS = {
  NotAllowedError: "This page may not use it: allow it beside the address bar, then start again.",
  NotFoundError: "No such device is attached.",
  NotReadableError: "Another program is using the device.",
  OverconstrainedError: "The device chosen is gone: choose another.",
  AbortError: "The device stopped working.",
};

async function capture() {
  const source = $("source").value;
  if (!navigator.mediaDevices) {
    throw new Error(
      `Browsers allow camera, microphone and screen only on pages from https:// or localhost, and this one is from ${location.origin}.
      Put a TLS proxy in front of the server, or publish with other software by WHIP.`,
    );
  }
  const chosen = (id) => ($(id).value ? { deviceId: { exact: $(id).value } } : {});
  const sound = { ...chosen("microphone"), echoCancellation: true, noiseSuppression: true };
  const picture = { ...chosen("camera"), width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } };
  try {
    if (source === "screen") {
      return await navigator.mediaDevices.getDisplayMedia({ video: { frameRate: { ideal: 30 } }, audio: true });
    }
    return await navigator.mediaDevices.getUserMedia({ audio: sound, video: source === "camera" && picture });
  } catch (error) {
    throw new Error(REASONS[error.name] ?? error.message);
  }
}

async function listDevices() {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  for (const [id, kind] of [["camera", "videoinput"], ["microphone", "audioinput"]]) {
    const found = devices.filter((device) => device.kind === kind && device.deviceId);
    const before = $(id).value;
    const options = found.map((device, place) => new Option(device.label || `${id} ${place + 1}`, device.deviceId));
    $(id).replaceChildren(new Option("Default", ""), ...options);
    $(id).value = found.some((device) => device.deviceId === before) ? before : "";
  }
}

async function publish() {
  const pc = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
  for (const track of media.getTracks()) pc.addTransceiver(track, { direction: "sendonly", streams: [media] });
  const mine = new Session(pc, `${base}/whip`, $("token").value);
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
    await mine.open();
    return await mine.ended;
  } finally {
    mine.close();
    connectedSince = 0;
  }
}

async function refused(error) {
  if (error.status === 401) {
    $("token-label").hidden = false;
    $("token").focus();
    stop("error", "Token needed", error.message);
  } else if (error.status >= 400 && error.status < 500 && error.status !== 409) {
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
      show("wait", "Reconnecting", `Connecting again: ${reason}`);
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
  listDevices();
  saveToken("publish", $("token").value);
  // "Stop sharing" of the browser, or an unplugged camera.
  for (const track of media.getTracks()) {
    track.addEventListener("ended", () => stop("idle", "Not publishing", "The device or window was closed."));
  }
  video.srcObject = media;
  wanted = true;
  backoff.reset();
  $("start").hidden = true;
  $("stop").hidden = false;
  for (const id of ["source", "camera", "microphone", "token"]) $(id).disabled = true;
  run();
}

function stop(state, word, message) {
  wanted = false;
  session?.close();
  media?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  $("start").hidden = false;
  $("start").disabled = false;
  $("stop").hidden = true;
  for (const id of ["source", "camera", "microphone", "token"]) $(id).disabled = false;
  show(state, word, message);
}

async function watch() {
  for (;;) {
    await sleep(1000);
    table(connectedSince ? rows(await reader.read(), connectedSince) : []);
  }
}

$("controls").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!wanted) start();
});
$("stop").addEventListener("click", () => stop("idle", "Not publishing", "Stopped."));
$("source").addEventListener("change", () => {
  $("camera-label").hidden = $("source").value !== "camera";
  $("microphone-label").hidden = $("source").value === "screen";
});
navigator.mediaDevices?.addEventListener("devicechange", listDevices);
window.addEventListener("pagehide", () => session?.close());
window.addEventListener("pageshow", (event) => event.persisted && location.reload());

listDevices();
watch();
