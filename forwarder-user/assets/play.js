// The page of a stream: the player, and around it what is known of it. `?embed`: the player alone.

import { FLAGS, flag } from "../player.js";
import { StatsReader } from "./stats.js";
import { duration, rows, table } from "./table.js";
import { $, PATH, nameOf, savedToken, saveToken, show, sleep } from "./ui.js";

/** The header's word for a state of the player, and its colour. */
const WORDS = {
  idle: ["idle", "Not started"],
  connecting: ["wait", "Connecting"],
  live: ["live", "Live"],
  paused: ["wait", "Paused"],
  blocked: ["wait", "Tap to play"],
  waiting: ["wait", "Waiting"],
  reconnecting: ["wait", "Reconnecting"],
  refused: ["error", "Refused"],
  unsupported: ["error", "Cannot play"],
};

const name = nameOf(PATH);
const player = $("player");
const { video } = player;
// As MediaMTX's player has them, whatever their case.
const query = new Map([...new URLSearchParams(location.search)].map(([key, value]) => [key.toLowerCase(), value]));
let reader;
let since = 0;

// For tests and the curious: the connection, its statistics, and the state that is shown.
window.penstock = {
  get pc() {
    return player.pc;
  },
  stats: async () => (reader ? reader.read() : {}),
  restartIce: () => player.restartIce(),
  get state() {
    return $("status").dataset.state;
  },
};

function begin() {
  $("stream").textContent = name;
  document.title = `${name} · Penstock`;
  document.documentElement.classList.toggle("embed", flag(query.get("embed"), false));
  for (const option of Object.keys(FLAGS)) {
    if (query.has(option)) player.setAttribute(option, query.get(option));
  }
  player.setAttribute("aria-label", `Stream ${name}`);
  // Names for what the element has made, for tests and for styles.
  [player.querySelector("p").id, player.querySelector("button").id] = ["message", "unmute"];
  const token = savedToken("play");
  if (token) player.setAttribute("token", token);
  player.setAttribute("src", `${PATH}/whep`);
  if (!flag(query.get("autoplay"), true)) show(...WORDS.idle);
}

player.addEventListener("statechange", ({ detail: { state, message, status } }) => {
  const [colour, word] = WORDS[state];
  show(colour, status === 401 ? "Token needed" : word, message);
  $("token-form").hidden = status !== 401;
});

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  saveToken("play", $("token").value);
  player.setAttribute("token", $("token").value);
});

const actions = {
  pause: () => (video.paused ? player.play() : video.pause()),
  mute: () => (video.muted = !video.muted),
  full: () => {
    if (document.fullscreenElement) return document.exitFullscreen();
    return player.requestFullscreen ? player.requestFullscreen() : video.webkitEnterFullscreen();
  },
  inset: () => (document.pictureInPictureElement ? document.exitPictureInPicture() : video.requestPictureInPicture()),
};

const KEYS = { k: "pause", " ": "pause", m: "mute", f: "full", p: "inset" };

/** A browser may refuse what it offers; its viewer sees that nothing happens. */
const act = (what) => Promise.resolve(actions[what]()).catch(() => {});

for (const what of Object.keys(actions)) $(what).addEventListener("click", () => act(what));

document.addEventListener("keydown", (event) => {
  const what = KEYS[event.key.toLowerCase()];
  if (!what || event.ctrlKey || event.altKey || event.metaKey || event.repeat || $(what).hidden) return;
  // Space is the key of whatever has the focus, a video included.
  if (event.target.closest?.(event.key === " " ? "a, button, input, select, video" : "input, select")) return;
  event.preventDefault();
  act(what);
});

/** Buttons say what they will do, and are there only if that can be done. */
function label() {
  $("pause").textContent = video.paused ? "Play" : "Pause";
  $("mute").textContent = video.muted ? "Sound on" : "Sound off";
  $("full").hidden = !document.fullscreenEnabled && !video.webkitEnterFullscreen;
  $("full").textContent = document.fullscreenElement ? "Leave full screen" : "Full screen";
  $("inset").hidden = !document.pictureInPictureEnabled || video.disablePictureInPicture;
}

for (const type of ["play", "pause", "volumechange", "emptied", "loadeddata"]) video.addEventListener(type, label);
document.addEventListener("fullscreenchange", label);

async function watch() {
  for (;;) {
    await sleep(1000);
    if (reader?.pc !== player.pc) reader = player.pc && new StatsReader(player.pc);
    since = player.pc?.connectionState === "connected" ? since || performance.now() : 0;
    if (!since || document.documentElement.classList.contains("embed")) {
      table([]);
      continue;
    }
    const connected = ["Connected for", duration(performance.now() - since)];
    table([...rows(await reader.read()), connected, ...player.notes.map((note) => ["Note", note])]);
  }
}

label();
begin();
watch();
