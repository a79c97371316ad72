// Types of /player.js. What each part is for, with examples: docs/player.md.

/**
 * What a player does:
 * - `idle`: nothing yet, or stopped.
 * - `connecting`: a session is being opened, or the first picture awaited.
 * - `live`: frames come, or sound of a stream without a picture.
 * - `paused`: the viewer has stopped the picture; the session stays.
 * - `blocked`: this browser starts nothing by itself, a tap is needed.
 * - `waiting`: nobody publishes, or nothing arrives; it goes on by itself.
 * - `reconnecting`: the connection was lost, or the server not reached; it is tried again.
 * - `refused`: the server will not; `status` and `message` say why. It is tried again, seldom.
 * - `unsupported`: this browser has no WebRTC. Nothing is tried again.
 */
export type State =
  | "idle" | "connecting" | "live" | "paused" | "blocked" | "waiting" | "reconnecting" | "refused" | "unsupported";

/** Of the event `statechange`. */
export interface StateDetail {
  state: State;
  /** For the viewer, in a sentence or two; empty while the picture speaks for itself. */
  message: string;
  /** HTTP status of a refusal, else 0. */
  status: number;
}

interface Playing {
  readonly state: State;
  readonly message: string;
  /** What the server says of the stream, e.g. which of its tracks browsers cannot play. */
  readonly notes: string[];
  /** The connection of the moment. */
  readonly pc: RTCPeerConnection | undefined;
  /** Starts playing; to be called by a handler of a click or a key where the browser wants a gesture. */
  play(): Promise<void> | undefined;
  /** Ends the session. */
  stop(): void;
  /** Looks for another network path, e.g. because the caller knows that the network has changed. */
  restartIce(): Promise<void> | undefined;
}

/** Plays in a `video` of the caller's. Dispatches `statechange`, `blocked` and `notes`. */
export class Player extends EventTarget implements Playing {
  /** `src`: the page of a stream at the server from which this module came, or any WHEP endpoint. */
  constructor(video: HTMLVideoElement, src: string | URL, options?: { token?: string });
  readonly state: State;
  readonly message: string;
  readonly status: number;
  readonly notes: string[];
  readonly pc: RTCPeerConnection | undefined;
  /** What waits for a gesture: nothing, sound (the picture plays muted), or the picture. */
  readonly blocked: "" | "sound" | "picture";
  /** Connects, and plays as soon as there is something; comes back by itself until `stop`. */
  start(): void;
  play(): Promise<void>;
  stop(): void;
  restartIce(): Promise<void> | undefined;
}

/** `<penstock-player src="…" token="…" controls muted autoplay playsinline disablepictureinpicture>`. */
export class PenstockPlayer extends HTMLElement implements Playing {
  readonly state: State;
  readonly message: string;
  readonly notes: string[];
  readonly pc: RTCPeerConnection | undefined;
  /** The element's video: that which was inside, or its own. */
  readonly video: HTMLVideoElement;
  readonly player: Player | undefined;
  play(): Promise<void> | undefined;
  stop(): void;
  restartIce(): Promise<void> | undefined;
}

/** The element's switches, and what they are if the attribute is not there. */
export const FLAGS: {
  readonly controls: boolean;
  readonly muted: boolean;
  readonly autoplay: boolean;
  readonly playsinline: boolean;
  readonly disablepictureinpicture: boolean;
};

/** `""`, `1`, `yes`, `true`, `on` are true; `0`, `no`, `false`, `off` are not; all else is `otherwise`. */
export function flag(text: string | null | undefined, otherwise: boolean): boolean;

declare global {
  interface HTMLElementTagNameMap {
    "penstock-player": PenstockPlayer;
  }
}
