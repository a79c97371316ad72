// The streams as a wall: each plays when asked, or, with `?wall`, all that are in view.

import { flag } from "../player.js";
import { refusal } from "./session.js";
import { $, ROOT, pathOf, savedToken } from "./ui.js";

const REFRESH_MS = 3000;

/** Tiles by the name of their stream. */
const tiles = new Map();
/** Streams that play though not all do. */
const chosen = new Set();
const query = new URLSearchParams(location.search);
let all = flag(query.get("wall"), false);

/** Who is out of view costs nothing. */
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    target.dataset.seen = isIntersecting;
    playOrNot(target);
  }
});

$("whip").textContent = `${ROOT}NAME/whip`;

$("publish").addEventListener("submit", (event) => {
  event.preventDefault();
  location.href = `${pathOf($("name").value)}/publish`;
});

$("wall").addEventListener("click", () => {
  all = !all;
  chosen.clear();
  if (all) query.set("wall", "1");
  else query.delete("wall");
  history.replaceState(null, "", String(query) ? `?${query}` : location.pathname);
  showAll();
});

function showAll() {
  $("wall").setAttribute("aria-pressed", all);
  $("wall").textContent = all ? "Stop all" : "Play all";
  tiles.forEach(playOrNot);
}

/** A tile's player is there while it is asked for and in view. */
function playOrNot(tile) {
  const { name, seen } = tile.dataset;
  const wanted = (all || chosen.has(name)) && seen === "true";
  const player = tile.querySelector("penstock-player");
  if (!wanted) player?.remove();
  tile.querySelector("button.play").hidden = wanted;
  if (!wanted || player) return;
  const fresh = document.createElement("penstock-player");
  fresh.setAttribute("controls", "no");
  fresh.setAttribute("aria-label", `Stream ${name}`);
  const token = savedToken("play");
  if (token) fresh.setAttribute("token", token);
  fresh.setAttribute("src", `${pathOf(name)}/whep`);
  tile.querySelector(".stage").append(fresh);
  // Twenty tiles at once would talk without end.
  fresh.querySelector("[aria-live]").setAttribute("aria-live", "off");
}

function tileOf(name) {
  const tile = document.createElement("li");
  tile.dataset.name = name;
  tile.innerHTML = `<div class="stage"><button type="button" class="play">Play</button></div>
    <a><strong dir="auto"></strong> <small></small></a>`;
  tile.querySelector("strong").textContent = name;
  // What is for the player in this address, a token for one, goes along.
  const rest = new URLSearchParams(location.search);
  rest.delete("wall");
  tile.querySelector("a").href = pathOf(name) + (String(rest) ? `?${rest}` : "");
  const play = tile.querySelector("button.play");
  play.setAttribute("aria-label", `Play ${name} here`);
  play.addEventListener("click", () => {
    chosen.add(name);
    playOrNot(tile);
    tile.querySelector("a").focus();
  });
  watcher.observe(tile);
  return tile;
}

/** Tiles stay what they are, so that a list that is read again interrupts none of them. */
function list(streams) {
  const names = streams.map(({ name }) => name);
  for (const [name, tile] of tiles) {
    if (names.includes(name)) continue;
    watcher.unobserve(tile);
    tile.remove();
    tiles.delete(name);
  }
  for (const { name, live, viewers } of streams) {
    if (!tiles.has(name)) {
      tiles.set(name, tileOf(name));
      $("streams").append(tiles.get(name));
    }
    const tile = tiles.get(name);
    tile.classList.toggle("live", live !== false);
    const count = Number.isInteger(viewers) && (viewers === 1 ? "1 viewer" : `${viewers} viewers`);
    tile.querySelector("small").textContent = [live === false && "not live", count].filter(Boolean).join(" · ");
  }
}

async function refresh() {
  let words = "";
  try {
    const reply = await fetch(`${ROOT}api/v1/streams`);
    if (!reply.ok) throw await refusal(reply);
    const { streams } = await reply.json();
    list(streams);
    words = streams.length ? "" : "No stream is live.";
  } catch (error) {
    // Those that play go on.
    words = error instanceof TypeError ? "The server cannot be reached." : error.message;
  }
  if ($("status").textContent !== words) $("status").textContent = words;
  $("wall").hidden = tiles.size === 0;
  setTimeout(refresh, document.hidden ? 5 * REFRESH_MS : REFRESH_MS);
}

showAll();
refresh();
