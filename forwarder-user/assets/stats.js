// Statistics of a peer connection, one object a second.

/** Reads one connection. Bit rates are those since the previous reading. */
export class StatsReader {
  #before = new Map();
  pc;

  constructor(pc) {
    this.pc = pc;
  }

  /**
   * `{ video?, audio?, srtpCipher, dtlsCipher, roundTripMs }`; a track has `kbps, bytes, packets,
   * lost, lossPercent, codec` and for video `width, height, fps, frames, limitedBy`.
   */
  async read() {
    const report = new Map();
    (await this.pc.getStats()).forEach((entry) => report.set(entry.id, entry));
    const result = {};
    for (const entry of report.values()) {
      if (entry.type === "inbound-rtp") this.#add(result, this.#inbound(entry, report));
      if (entry.type === "outbound-rtp") this.#add(result, this.#outbound(entry, report));
      if (entry.type === "transport" && entry.srtpCipher) {
        result.srtpCipher = entry.srtpCipher;
        result.dtlsCipher = entry.dtlsCipher;
      }
      // Firefox marks the pair, others name it in the transport.
      const selected = entry.selected || report.get(entry.transportId)?.selectedCandidatePairId === entry.id;
      if (entry.type === "candidate-pair" && selected && entry.currentRoundTripTime !== undefined) {
        result.roundTripMs = entry.currentRoundTripTime * 1000;
      }
    }
    return result;
  }

  #add(result, track) {
    // An unused section of the same kind must not hide the one that has media.
    if (!result[track.kind] || track.bytes > result[track.kind].bytes) result[track.kind] = track;
  }

  #inbound(entry, report) {
    const track = this.#common(entry, report, entry.bytesReceived, entry.packetsReceived, entry.packetsLost);
    track.frames = entry.framesDecoded;
    return track;
  }

  #outbound(entry, report) {
    const remote = report.get(entry.remoteId);
    const track = this.#common(entry, report, entry.bytesSent, entry.packetsSent, remote?.packetsLost);
    track.frames = entry.framesEncoded;
    if (entry.qualityLimitationReason && entry.qualityLimitationReason !== "none") {
      track.limitedBy = entry.qualityLimitationReason;
    }
    return track;
  }

  #common(entry, report, bytes = 0, packets = 0, lost = 0) {
    const before = this.#before.get(entry.id);
    this.#before.set(entry.id, { bytes, time: entry.timestamp });
    const seconds = before ? (entry.timestamp - before.time) / 1000 : 0;
    const expected = packets + Math.max(lost, 0);
    return {
      kind: entry.kind,
      bytes,
      packets,
      lost: Math.max(lost, 0),
      lossPercent: expected ? (100 * Math.max(lost, 0)) / expected : 0,
      kbps: seconds > 0 ? (8 * (bytes - before.bytes)) / 1000 / seconds : 0,
      codec: report.get(entry.codecId)?.mimeType?.split("/")[1],
      width: entry.frameWidth,
      height: entry.frameHeight,
      fps: entry.framesPerSecond,
    };
  }
}
