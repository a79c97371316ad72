// Plays streams in any page: <penstock-player src="https://tv.example/NAME"></penstock-player>.
// Types and descriptions are in player.d.ts, how to use it in docs/player.md.

import { Player } from "./assets/playback.js";

export { Player };

/** Switches of the element, and what they are if not said otherwise. */
export const FLAGS = { controls: true, muted: true, autoplay: true, playsinline: true, disablepictureinpicture: false };

const PROPERTIES = { playsinline: "playsInline", disablepictureinpicture: "disablePictureInPicture" };

/** Yes or no as people write it in attributes and addresses; anything else counts as not said. */
export function flag(text, otherwise) {
  if (/^(|1|yes|true|on)$/i.test(text ?? "-")) return true;
  return /^(0|no|false|off)$/i.test(text ?? "-") ? false : otherwise;
}

const STYLE = `
penstock-player { display: block; position: relative; overflow: hidden; aspect-ratio: 16 / 9; background: #000; }
penstock-player > video { display: block; width: 100%; height: 100%; }
penstock-player > p { position: absolute; inset: 0; display: grid; place-items: center; margin: 0; padding: 1em;
  background: rgb(0 0 0 / 70%); color: #fff; font: 1rem/1.4 system-ui, sans-serif; text-align: center;
  white-space: pre-line; overflow-wrap: anywhere; pointer-events: none; }
penstock-player > p:empty, penstock-player > button[hidden] { display: none; }
penstock-player > button { position: absolute; inset-block-start: .75em; inset-inline-end: .75em; padding: .5em .9em;
  border: 0; border-radius: 2em; background: #fff; color: #111; font: 600 1rem system-ui, sans-serif; cursor: pointer; }
penstock-player > button.big { inset: 0; padding-block-end: 30%; border-radius: 0; background: none; color: #fff;
  font-size: 1.5rem; text-shadow: 0 0 .5em #000; }
penstock-player:fullscreen { aspect-ratio: auto; }`;

let sheet;

/** An adopted sheet passes every Content-Security-Policy; browsers before 2023 need the other way. */
function dress(root) {
  try {
    if (!sheet) (sheet = new CSSStyleSheet()).replaceSync(STYLE);
    if (!root.adoptedStyleSheets.includes(sheet)) root.adoptedStyleSheets = [...root.adoptedStyleSheets, sheet];
  } catch {
    const style = document.createElement("style");
    style.textContent = STYLE;
    (root.head ?? root).append(style);
  }
}

/** `<penstock-player>`: a video, what there is to say, and a button where a gesture is needed. */
export class PenstockPlayer extends (globalThis.HTMLElement ?? Object) {
  static observedAttributes = ["src", "token", ...Object.keys(FLAGS)];
  #planned = false;
  #anew = false;
  #words;
  #button;
  /** Made when the element enters a page. */
  video;
  player;

  connectedCallback() {
    dress(this.getRootNode());
    if (!this.video) this.#build();
    this.#plan();
  }

  disconnectedCallback() {
    this.#plan();
  }

  attributeChangedCallback(name, before, now) {
    if (name === "src" || name === "token") {
      if (before !== now) this.#plan(true);
    } else if (this.video) {
      this.#apply(name);
    }
  }

  get state() {
    return this.player?.state ?? "idle";
  }

  get message() {
    return this.player?.message ?? "";
  }

  get notes() {
    return this.player?.notes ?? [];
  }

  get pc() {
    return this.player?.pc;
  }

  play() {
    return this.player?.play();
  }

  stop() {
    this.player?.stop();
  }

  restartIce() {
    return this.player?.restartIce();
  }

  #flag(name) {
    return flag(this.getAttribute(name), FLAGS[name]);
  }

  #apply(name) {
    this.video[PROPERTIES[name] ?? name] = this.#flag(name);
    this.#offer();
  }

  #build() {
    this.video = this.querySelector("video") ?? document.createElement("video");
    this.#words = document.createElement("p");
    this.#words.dir = "auto";
    this.#words.setAttribute("aria-live", "polite");
    this.#button = document.createElement("button");
    this.#button.type = "button";
    this.append(this.video, this.#words, this.#button);
    Object.keys(FLAGS).forEach((name) => this.#apply(name));
    this.#button.addEventListener("click", () => this.#tapped());
    for (const type of ["volumechange", "playing", "pause"]) this.video.addEventListener(type, () => this.#offer());
    // With the controls of the browser, where the player has not begun.
    this.video.addEventListener("play", () => this.player?.start());
  }

  /** Once for all changes that come together; an element that is only moved goes on. */
  #plan(anew = false) {
    if (anew) this.#anew = true;
    if (this.#planned) return;
    this.#planned = true;
    queueMicrotask(() => {
      this.#planned = false;
      if (this.isConnected && this.player && !this.#anew) return;
      this.player?.stop();
      this.player = undefined;
      this.#anew = false;
      if (this.isConnected && this.getAttribute("src")) this.#begin();
    });
  }

  #begin() {
    const player = new Player(this.video, this.getAttribute("src"), { token: this.getAttribute("token") ?? "" });
    this.player = player;
    for (const type of ["statechange", "blocked", "notes"]) {
      player.addEventListener(type, ({ detail }) => {
        if (player !== this.player) return;
        this.#words.textContent = player.message;
        this.#offer();
        this.dispatchEvent(new CustomEvent(type, { detail }));
      });
    }
    this.video.setAttribute("aria-label", this.getAttribute("aria-label") ?? "Live stream");
    if (this.#flag("autoplay")) player.start();
    this.#offer();
  }

  /** Shows the button if a gesture is needed, or turns sound on. */
  #offer() {
    const { player, video } = this;
    const begin = player && (player.state === "idle" || player.state === "blocked");
    const wanted = player?.blocked === "sound";
    const sound = video.muted && video.srcObject?.getAudioTracks().length && (video.controls || wanted);
    this.#button.textContent = begin ? "Tap to play" : wanted ? "Tap for sound" : "Turn sound on";
    this.#button.className = begin ? "big" : "";
    this.#button.hidden = !begin && !sound;
  }

  #tapped() {
    const { player, video } = this;
    if (player.state !== "idle" && player.state !== "blocked") video.muted = false;
    player.play();
  }
}

if (globalThis.customElements?.get("penstock-player") === undefined) {
  globalThis.customElements?.define("penstock-player", PenstockPlayer);
}
