// The list of live streams.

import { $ } from "./ui.js";

const REFRESH_MS = 3000;

$("whip").textContent = new URL("NAME/whip", location.href).href;

$("publish").addEventListener("submit", (event) => {
  event.preventDefault();
  location.href = `${path($("name").value)}/publish`;
});

// A name's slashes are the URL's.
function path(name) {
  return name.split("/").map(encodeURIComponent).join("/");
}

function item({ name, live, viewers }) {
  const entry = document.createElement("li");
  const link = document.createElement("a");
  link.href = path(name);
  const title = document.createElement("strong");
  title.textContent = name;
  title.className = live === false ? "" : "live";
  const count = document.createElement("small");
  if (Number.isInteger(viewers)) count.textContent = viewers === 1 ? "1 viewer" : `${viewers} viewers`;
  link.append(title, count);
  entry.append(link);
  return entry;
}

async function refresh() {
  try {
    const reply = await fetch("api/v1/streams");
    if (!reply.ok) throw new Error((await reply.text()).trim());
    const { streams } = await reply.json();
    $("streams").replaceChildren(...streams.map(item));
    $("status").textContent = streams.length ? "" : "No stream is live.";
  } catch (error) {
    $("streams").replaceChildren();
    $("status").textContent = error instanceof TypeError ? "The server cannot be reached." : error.message;
  }
  setTimeout(refresh, document.hidden ? 5 * REFRESH_MS : REFRESH_MS);
}

refresh();
