// What the pages share: status, overlay, statistics, token, waiting.

export const $ = (id) => document.getElementById(id);

export const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Shows the state: `live`, `wait`, `error` or `idle`, in a word; the message covers the picture. */
export function show(state, word, message = "") {
  $("status").dataset.state = state;
  if ($("status").textContent !== word) $("status").textContent = word;
  $("message").textContent = message;
  $("overlay").hidden = message === "";
  const spinner = $("overlay").querySelector(".spinner");
  if (spinner) spinner.hidden = state !== "wait";
}

/** Fills the list of statistics; rows without a value are left out. */
export function table(rows) {
  const list = $("stats");
  const shown = rows.filter(([, value]) => value !== undefined && value !== "");
  while (list.children.length > shown.length) list.lastChild.remove();
  shown.forEach(([name, value], place) => {
    let row = list.children[place];
    if (!row) {
      row = document.createElement("div");
      row.append(document.createElement("dt"), document.createElement("dd"));
      list.append(row);
    }
    row.firstChild.textContent = name;
    row.lastChild.textContent = value;
  });
}

/** The rows for `stats.js`'s result. */
export function rows(stats, since) {
  const { video, audio } = stats;
  const lost = (track) => track && `${track.lost} (${track.lossPercent.toFixed(1)} %)`;
  return [
    ["Resolution", video?.width && `${video.width} × ${video.height}`],
    ["Frames per second", video?.fps?.toFixed(0)],
    ["Video bit rate", video && `${video.kbps.toFixed(0)} kbit/s`],
    ["Video packets lost", lost(video)],
    ["Video codec", video?.codec],
    ["Audio bit rate", audio && `${audio.kbps.toFixed(0)} kbit/s`],
    ["Audio packets lost", lost(audio)],
    ["Audio codec", audio?.codec],
    ["Limited by", video?.limitedBy],
    ["Round trip", stats.roundTripMs !== undefined ? `${stats.roundTripMs.toFixed(0)} ms` : undefined],
    ["SRTP cipher", stats.srtpCipher?.replace(/^SRTP_/, "").replaceAll("_", " ")],
    ["Connected for", since && duration(performance.now() - since)],
  ];
}

function duration(milliseconds) {
  const seconds = Math.floor(milliseconds / 1000);
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  const two = (number) => String(number).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** A bearer token from `#token=…`, or as it was typed before in this tab. */
export function savedToken(role) {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    saveToken(role, given);
    // Not to be seen or copied with the address.
    history.replaceState(null, "", location.pathname);
  }
  try {
    return sessionStorage.getItem(`penstock-${role}`) ?? "";
  } catch {
    return given ?? "";
  }
}

export function saveToken(role, token) {
  try {
    sessionStorage.setItem(`penstock-${role}`, token);
  } catch {
    // Storage may be forbidden; the token is then asked for again.
  }
}

/** Waiting times that double from one to ten seconds, a little random so that viewers spread. */
export class Backoff {
  #next = 1000;

  reset() {
    this.#next = 1000;
  }

  wait() {
    const time = this.#next * (0.75 + Math.random() / 2);
    this.#next = Math.min(this.#next * 2, 10_000);
    return sleep(time);
  }
}
