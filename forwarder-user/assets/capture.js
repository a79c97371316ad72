// Camera, microphone and screen: what this page may use, what there is, and getting it.

import { $ } from "./ui.js";

const REASONS = {
  NotAllowedError: "This page may not use it: allow it beside the address bar, then start again.",
  NotFoundError: "No such device is attached.",
  NotReadableError: "Another program is using the device.",
  OverconstrainedError: "The device chosen is gone: choose another.",
  AbortError: "The device stopped working.",
};

/** Why this page cannot publish at all, before anybody has pressed anything; "" if nothing speaks against it. */
export function obstacle() {
  if (typeof RTCPeerConnection === "undefined") {
    return "This browser cannot publish: it has no WebRTC, or it is switched off.";
  }
  if (!navigator.mediaDevices?.getUserMedia) {
    if (window.isSecureContext) return "This browser gives no page a camera or a microphone.";
    return (
      "Browsers allow camera, microphone and screen only on pages from https:// or localhost, " +
      `and this one is from ${location.origin}.\nOpen it by https:// (whoever runs the server sets http.listen_tls, ` +
      "or has a proxy in front of it), or publish with other software by WHIP."
    );
  }
  const policy = document.permissionsPolicy ?? document.featurePolicy;
  if (window !== window.top && policy && !policy.allowsFeature("camera") && !policy.allowsFeature("microphone")) {
    return 'The page around this one keeps camera and microphone from it: its iframe needs allow="camera; microphone".';
  }
  return "";
}

/** What will not work although nothing is pressed yet: devices that are missing or forbidden. */
export async function warning() {
  const kinds = { camera: "videoinput", microphone: "audioinput" };
  const source = $("source").value;
  if (source === "screen") return "";
  const devices = await navigator.mediaDevices.enumerateDevices();
  const needed = { camera: ["camera", "microphone"], picture: ["camera"], microphone: ["microphone"] };
  for (const name of needed[source]) {
    if (!devices.some(({ kind }) => kind === kinds[name])) return `This browser finds no ${name}.`;
    // Firefox does not know these names.
    const permission = await navigator.permissions?.query({ name }).catch(() => undefined);
    if (permission?.state === "denied") return `This page may not use the ${name}: allow it beside the address bar.`;
  }
  return "";
}

/** Fills the choices of devices. Their names are known once one of them was allowed. */
export async function listDevices() {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  for (const [id, kind] of [["camera", "videoinput"], ["microphone", "audioinput"]]) {
    const found = devices.filter((device) => device.kind === kind && device.deviceId);
    const before = $(id).value;
    const options = found.map((device, place) => new Option(device.label || `${id} ${place + 1}`, device.deviceId));
    $(id).replaceChildren(new Option("Default", ""), ...options);
    $(id).value = found.some((device) => device.deviceId === before) ? before : "";
  }
}

/** Fills the choice of codecs with those that this browser sends. */
export function listCodecs() {
  const helpers = /\/(rtx|red|ulpfec|flexfec-03)$/i;
  const all = globalThis.RTCRtpSender?.getCapabilities?.("video")?.codecs ?? [];
  const names = new Set(all.map(({ mimeType }) => mimeType).filter((type) => !helpers.test(type)));
  $("codec").append(...[...names].map((type) => new Option(type.split("/")[1], type)));
}

/** The stream that was chosen. Throws an `Error` with words for people. */
export async function capture() {
  const source = $("source").value;
  const [width, height] = $("resolution").value.split("x").map((ideal) => ({ ideal: Number(ideal) }));
  const size = { width, height, frameRate: { ideal: Number($("rate").value) } };
  const chosen = (id) => ($(id).value ? { deviceId: { exact: $(id).value } } : {});
  const audio = { ...chosen("microphone"), echoCancellation: true, noiseSuppression: true };
  try {
    if (source === "screen") return await navigator.mediaDevices.getDisplayMedia({ video: size, audio: true });
    const video = source !== "microphone" && { ...chosen("camera"), ...size };
    return await navigator.mediaDevices.getUserMedia({ audio: source !== "picture" && audio, video });
  } catch (error) {
    throw new Error(REASONS[error.name] ?? error.message);
  }
}

/** Adds the tracks to a connection, the picture in as many sizes and in the codec that were chosen. */
export function send(pc, media) {
  for (const track of media.getTracks()) {
    const options = { direction: "sendonly", streams: [media] };
    const layers = Number($("layers").value);
    if (track.kind === "video" && layers > 1) {
      options.sendEncodings = ["q", "h", "f"].slice(3 - layers).map((rid, place) => ({
        rid,
        scaleResolutionDownBy: 2 ** (layers - 1 - place),
      }));
    }
    const transceiver = pc.addTransceiver(track, options);
    const codec = $("codec").value;
    if (track.kind !== "video" || !codec) continue;
    // What repairs it stays.
    const codecs = RTCRtpSender.getCapabilities("video").codecs;
    const others = [...$("codec").options].map(({ value }) => value).filter((value) => value !== codec);
    transceiver.setCodecPreferences?.(codecs.filter(({ mimeType }) => !others.includes(mimeType)));
  }
}
