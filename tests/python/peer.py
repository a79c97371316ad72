"""A WebRTC peer on aiortc: publishes a generated clip by WHIP, or plays a stream by WHEP.

    peer.py publish URL [--codec VP8]
    peer.py play URL

Writes its state to stdout as one JSON object a line, twice a second. The line `pause` on stdin stops what it sends; the
end of stdin ends it with a DELETE of its session.
"""

import argparse
import array
import asyncio
import collections
import fractions
import json
import math
import sys
import time
import urllib.parse
import urllib.request

from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from av import AudioFrame, VideoFrame

WIDTH, HEIGHT, RATE = 320, 240, 15
SAMPLE_RATE, SAMPLES = 48000, 960
HTTP_TIMEOUT_S = 10


def paced(track, clock_rate, step):
    """Timestamp of the next frame, and how long to wait until it is due."""
    now = time.monotonic()
    if track.started is None:
        track.started, track.timestamp = now, 0
    else:
        track.timestamp += step
    return track.timestamp, max(0, track.started + track.timestamp / clock_rate - now)


class Bars(MediaStreamTrack):
    """A bright bar that wanders over a gradient."""

    kind = "video"

    def __init__(self):
        super().__init__()
        self.started = self.timestamp = None
        self.pictures = [self.picture(step) for step in range(16)]
        self.sent = 0

    @staticmethod
    def picture(step):
        line = bytearray(32 + x * 128 // WIDTH for x in range(WIDTH))
        line[step * WIDTH // 16:(step + 1) * WIDTH // 16] = bytes([235]) * (WIDTH // 16)
        chroma = bytes([90]) * (WIDTH // 2 * HEIGHT // 2)
        return bytes(line) * HEIGHT, chroma, chroma

    async def recv(self):
        timestamp, wait = paced(self, 90000, 90000 // RATE)
        await asyncio.sleep(wait)
        frame = VideoFrame(WIDTH, HEIGHT, "yuv420p")
        for plane, data in zip(frame.planes, self.pictures[self.sent % 16]):
            rows, width = plane.height, plane.width
            pad = bytes(plane.line_size - width)
            plane.update(b"".join(data[y * width:(y + 1) * width] + pad for y in range(rows)))
        frame.pts, frame.time_base = timestamp, fractions.Fraction(1, 90000)
        self.sent += 1
        return frame


class Tone(MediaStreamTrack):
    """440 Hz."""

    kind = "audio"

    def __init__(self):
        super().__init__()
        self.started = self.timestamp = None
        self.sent = 0

    async def recv(self):
        timestamp, wait = paced(self, SAMPLE_RATE, SAMPLES)
        await asyncio.sleep(wait)
        angle = 2 * math.pi * 440 / SAMPLE_RATE
        wave = array.array("h", (int(8000 * math.sin(angle * (timestamp + n))) for n in range(SAMPLES)))
        frame = AudioFrame("s16", "mono", SAMPLES)
        frame.planes[0].update(wave.tobytes())
        frame.sample_rate = SAMPLE_RATE
        frame.pts, frame.time_base = timestamp, fractions.Fraction(1, SAMPLE_RATE)
        self.sent += 1
        return frame


class Seen:
    """What came out of the decoders."""

    def __init__(self):
        self.video_frames = self.audio_frames = 0
        self.width = self.height = 0
        self.contrast = self.loudness = self.pitch = 0
        # Of each of the last 50 frames that are not silent, how often they rise through zero.
        self._rises, self._last = collections.deque(maxlen=50), 0

    def told(self):
        """What goes to stdout."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def listen(self, frame):
        self.audio_frames += 1
        channels = len(frame.layout.channels)
        # Behind the samples, the decoder's buffer has what it had before.
        samples = array.array("h", bytes(frame.planes[0])[:2 * frame.samples * channels])
        self.loudness = max(self.loudness, max(map(abs, samples)))
        left = samples[::channels]
        if max(map(abs, left)) < 300:
            return
        rises = sum(before < 0 <= after for before, after in zip([self._last, *left], left))
        self._last = left[-1]
        self._rises.append(rises * frame.sample_rate / len(left))
        self.pitch = round(sum(self._rises) / len(self._rises))

    async def watch(self, track):
        while True:
            frame = await track.recv()
            if track.kind == "video":
                self.video_frames += 1
                self.width, self.height = frame.width, frame.height
                plane = frame.planes[0]
                middle = plane.height // 2 * plane.line_size
                row = bytes(plane)[middle:middle + plane.width]
                self.contrast = max(row) - min(row)
            else:
                self.listen(frame)


def request(method, url, body=None, content_type=None):
    headers = {"Content-Type": content_type} if content_type else {}
    call = urllib.request.Request(url, data=body, method=method, headers=headers)
    # No proxy of the machine may stand between the peer and the test network.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(call, timeout=HTTP_TIMEOUT_S) as answer:
        return answer.status, dict(answer.headers), answer.read().decode()


async def connect(pc, url):
    """Offers, takes the answer and returns the session's URL."""
    await pc.setLocalDescription(await pc.createOffer())
    offer = pc.localDescription.sdp.encode()
    status, headers, answer = await asyncio.to_thread(request, "POST", url, offer, "application/sdp")
    if status != 201:
        raise RuntimeError(f"{url} answered {status}")
    location = {name.lower(): value for name, value in headers.items()}["location"]
    await pc.setRemoteDescription(RTCSessionDescription(sdp=answer, type="answer"))
    return urllib.parse.urljoin(url, location)


async def state(pc, seen):
    """The line that goes to stdout."""
    report = (await pc.getStats()).values()
    fields = ("ssrc", "kind", "packetsReceived", "packetsSent", "packetsLost")
    streams = {}
    for entry in report:
        if entry.type in ("inbound-rtp", "outbound-rtp", "remote-inbound-rtp"):
            values = {field: getattr(entry, field) for field in fields if hasattr(entry, field)}
            streams.setdefault(entry.type, []).append(values)
    transport = pc.getTransceivers()[0].sender.transport
    # aiortc has no public name for the negotiated SRTP profile.
    profile = transport._ssl.get_selected_srtp_profile() if transport.state == "connected" else b""
    return {"connection": pc.connectionState, "srtp_profile": profile.decode(), **seen.told(), **streams}


async def tell(pc, seen):
    while True:
        print(json.dumps(await state(pc, seen)), flush=True)
        await asyncio.sleep(0.5)


async def obey(pc):
    """Follows the commands on stdin until its end."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        if line.strip() == b"pause":
            for sender in pc.getSenders():
                sender.replaceTrack(None)


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", choices=["publish", "play"])
    parser.add_argument("url")
    parser.add_argument("--codec", default="VP8", help="video codec to publish")
    options = parser.parse_args()

    pc, seen = RTCPeerConnection(RTCConfiguration(iceServers=[])), Seen()
    watchers = []
    if options.role == "publish":
        for track in (Tone(), Bars()):
            pc.addTransceiver(track, direction="sendonly")
        codecs = RTCRtpSender.getCapabilities("video").codecs
        wanted = [codec for codec in codecs if codec.mimeType.lower() == f"video/{options.codec}".lower()]
        pc.getTransceivers()[1].setCodecPreferences(wanted)
    else:
        pc.on("track", lambda track: watchers.append(asyncio.ensure_future(seen.watch(track))))
        for kind in ("audio", "video"):
            pc.addTransceiver(kind, direction="recvonly")

    session = await connect(pc, options.url)
    teller = asyncio.ensure_future(tell(pc, seen))
    try:
        await obey(pc)
    finally:
        for task in (teller, *watchers):
            task.cancel()
        print(json.dumps(await state(pc, seen)), flush=True)
        await asyncio.to_thread(request, "DELETE", session)
        await pc.close()


asyncio.run(main())
