// The list of statistics below a picture.

import { $ } from "./ui.js";

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
      row.lastChild.dir = "auto";
      list.append(row);
    }
    row.firstChild.textContent = name;
    row.lastChild.textContent = value;
  });
}

const kbps = (value) => (value === undefined ? undefined : `${value.toFixed(0)} kbit/s`);
const ms = (value) => (value === undefined || value === null ? undefined : `${value.toFixed(0)} ms`);

/** The rows for `stats.js`'s result. */
export function rows(stats) {
  const { video, audio } = stats;
  const lost = (track) => track && `${track.lost} (${track.lossPercent.toFixed(1)} %)`;
  return [
    ["Resolution", video?.width && `${video.width} × ${video.height}`],
    ["Frames per second", video?.fps?.toFixed(0)],
    ["Video bit rate", kbps(video?.kbps)],
    ["Video packets lost", lost(video)],
    ["Video codec", video?.codec],
    ["Audio bit rate", kbps(audio?.kbps)],
    ["Audio packets lost", lost(audio)],
    ["Audio codec", audio?.codec],
    ["Limited by", video?.limitedBy],
    ["Round trip", ms(stats.roundTripMs)],
    ["SRTP cipher", stats.srtpCipher?.replace(/^SRTP_/, "").replaceAll("_", " ")],
  ];
}

/** What of a publisher arrives at the server, of `api/v1/own-session/…`. */
export function arrivals({ tracks = [], warning } = {}) {
  const all = tracks.flatMap(({ kind, layer, bitrate, loss, lost, rtt_ms: rtt }) => {
    // Of a picture in several sizes, each has its name.
    const Kind = (kind === "video" ? "Video" : "Audio") + (layer?.name ? ` (${layer.name})` : "");
    return [
      [`${Kind} at the server`, bitrate && kbps(bitrate / 1000)],
      [`${Kind} lost on the way`, Number.isInteger(lost) ? `${lost} (${(100 * loss).toFixed(1)} %)` : ""],
      [`${Kind} round trip, by the server`, ms(rtt)],
    ];
  });
  return [...all, ["The server says", warning ?? ""]];
}

export function duration(milliseconds) {
  const seconds = Math.floor(milliseconds / 1000);
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  const two = (number) => String(number).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}
