// What the pages share: paths, status, tokens, waiting.

import { sleep } from "./session.js";

export { sleep };

export const $ = (id) => document.getElementById(id);

/** Where the server is, whatever path a proxy has put in front of it. */
export const ROOT = new URL("..", import.meta.url).href;

/** This page's path, with or without a slash at its end. */
export const PATH = location.pathname.replace(/\/+$/, "");

/** The stream of a path, as people read it. */
export function nameOf(streamPath) {
  const path = streamPath.slice(new URL(ROOT).pathname.length);
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}

/** The path of a stream below the server's root. */
export const pathOf = (name) => ROOT + name.split("/").map(encodeURIComponent).join("/");

/** Shows the state: `live`, `wait`, `error` or `idle`, in a word, and the message where the page has a place for it. */
export function show(state, word, message = "") {
  $("status").dataset.state = state;
  if ($("status").textContent !== word) $("status").textContent = word;
  if ($("message")) $("message").textContent = message;
}

/** A bearer token from `?token=…`, `?jwt=…` or `#token=…`, or as it was typed before in this tab. */
export function savedToken(role) {
  const query = new URLSearchParams(location.search);
  const asked = query.get("token") ?? query.get("jwt");
  if (asked) return asked;
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    saveToken(role, given);
    // Not to be seen or copied with the address.
    history.replaceState(null, "", location.pathname + location.search);
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

/** Waiting times that double from one to ten seconds, a little random so that many spread. */
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
