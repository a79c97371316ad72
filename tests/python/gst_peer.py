"""A WebRTC peer on GStreamer's webrtcbin, which knows AES_CM_128_HMAC_SHA1_80 only: publishes a generated clip by WHIP,
or plays a stream by WHEP.

    gst_peer.py publish URL
    gst_peer.py play URL

Writes its state to stdout as one JSON object a line, twice a second. The line `pause` on stdin stops what it sends; the
end of stdin ends it with a DELETE of its session.
"""

import argparse
import array
import json
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstSdp", "1.0")
gi.require_version("GstWebRTC", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402

HTTP_TIMEOUT_S = 10
VIDEO_CAPS = "application/x-rtp,media=video,encoding-name=VP8,clock-rate=90000,payload=96"
AUDIO_CAPS = "application/x-rtp,media=audio,encoding-name=OPUS,clock-rate=48000,encoding-params=(string)2,payload=97"
SEND = f"""
    webrtcbin name=peer bundle-policy=max-bundle
    videotestsrc is-live=true pattern=ball name=camera ! video/x-raw,width=320,height=240,framerate=15/1
        ! vp8enc deadline=1 keyframe-max-dist=30 ! valve name=video ! rtpvp8pay ! {VIDEO_CAPS} ! peer.
    audiotestsrc is-live=true ! audio/x-raw,rate=48000,channels=2 ! opusenc ! valve name=audio ! rtpopuspay
        ! {AUDIO_CAPS} ! peer.
"""
# A pipeline, not a lone element: the fake source makes two.
RECEIVE = "webrtcbin name=peer bundle-policy=max-bundle fakesrc num-buffers=0 ! fakesink async=false"
DECODE = {
    "VP8": "rtpvp8depay ! vp8dec ! videoconvert ! video/x-raw,format=GRAY8 ! fakesink name=out signal-handoffs=true sync=false",
    "OPUS": "rtpopusdepay ! opusdec ! audioconvert ! audio/x-raw,format=S16LE ! fakesink name=out signal-handoffs=true sync=false",
}


def request(method, url, body=None, content_type=None):
    headers = {"Content-Type": content_type} if content_type else {}
    call = urllib.request.Request(url, data=body, method=method, headers=headers)
    # No proxy of the machine may stand between the peer and the test network.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(call, timeout=HTTP_TIMEOUT_S) as answer:
        return answer.status, answer.headers, answer.read().decode()


class Peer:
    def __init__(self, url, publishes):
        self.url, self.session, self.failure = url, None, None
        self.seen = {"video_frames": 0, "audio_frames": 0, "width": 0, "height": 0, "contrast": 0, "loudness": 0}
        self.loop = GLib.MainLoop()
        self.pipeline = Gst.parse_launch(SEND if publishes else RECEIVE)
        self.webrtc = self.pipeline.get_by_name("peer")
        self.webrtc.connect("notify::ice-gathering-state", self.gathered)
        if publishes:
            for transceiver in range(2):
                direction = GstWebRTC.WebRTCRTPTransceiverDirection.SENDONLY
                self.webrtc.emit("get-transceiver", transceiver).set_property("direction", direction)
        else:
            self.webrtc.connect("pad-added", self.decode)
            for caps in (AUDIO_CAPS, VIDEO_CAPS):
                direction = GstWebRTC.WebRTCRTPTransceiverDirection.RECVONLY
                self.webrtc.emit("add-transceiver", direction, Gst.Caps.from_string(caps))
        bus = self.pipeline.get_bus()
        bus.add_signal_watch()
        bus.connect("message::error", lambda _, message: self.fail(str(message.parse_error())))

    def fail(self, why):
        self.failure = why
        GLib.idle_add(self.loop.quit)

    def run(self):
        self.pipeline.set_state(Gst.State.PLAYING)
        GLib.idle_add(self.offer)
        GLib.timeout_add(500, self.tell)
        threading.Thread(target=self.obey, daemon=True).start()
        self.loop.run()
        self.tell()
        self.pipeline.set_state(Gst.State.NULL)
        if self.session:
            request("DELETE", self.session)
        if self.failure:
            sys.exit(self.failure)

    def offer(self):
        def created(promise):
            reply = promise.get_reply()
            offer = reply.get_value("offer")
            self.webrtc.emit("set-local-description", offer, Gst.Promise.new())

        self.webrtc.emit("create-offer", None, Gst.Promise.new_with_change_func(created))
        return False

    def gathered(self, webrtc, _):
        if webrtc.get_property("ice-gathering-state") == GstWebRTC.WebRTCICEGatheringState.COMPLETE:
            threading.Thread(target=self.signal, daemon=True).start()

    def signal(self):
        try:
            offer = self.webrtc.get_property("local-description").sdp.as_text().encode()
            status, headers, answer = request("POST", self.url, offer, "application/sdp")
            if status != 201:
                raise RuntimeError(f"{self.url} answered {status}")
            self.session = urllib.parse.urljoin(self.url, headers["Location"])
            _, message = GstSdp.SDPMessage.new_from_text(answer)
            description = GstWebRTC.WebRTCSessionDescription.new(GstWebRTC.WebRTCSDPType.ANSWER, message)
            self.webrtc.emit("set-remote-description", description, Gst.Promise.new())
        except Exception as error:  # The thread's end must end the process, whatever it was.
            reason = error.read().decode() if isinstance(error, urllib.error.HTTPError) else ""
            self.fail(f"signalling: {error} {reason}")

    def decode(self, _, pad):
        if pad.get_direction() != Gst.PadDirection.SRC:
            return
        encoding = pad.get_current_caps().get_structure(0).get_string("encoding-name")
        chain = Gst.parse_bin_from_description(DECODE[encoding], True)
        chain.get_by_name("out").connect("handoff", self.picture if encoding == "VP8" else self.sound)
        self.pipeline.add(chain)
        pad.link(chain.get_static_pad("sink"))
        chain.sync_state_with_parent()

    def picture(self, _, buffer, pad):
        caps = pad.get_current_caps().get_structure(0)
        self.seen["width"], self.seen["height"] = caps.get_int("width")[1], caps.get_int("height")[1]
        data = buffer.extract_dup(0, buffer.get_size())
        self.seen["contrast"] = max(data) - min(data)
        self.seen["video_frames"] += 1

    def sound(self, _, buffer, __):
        samples = array.array("h", buffer.extract_dup(0, buffer.get_size()))
        self.seen["loudness"] = max(self.seen["loudness"], max(map(abs, samples)))
        self.seen["audio_frames"] += 1

    def tell(self):
        def collected(promise):
            streams = {}
            reply = promise.get_reply()
            for number in range(reply.n_fields()):
                entry = reply.get_value(reply.nth_field_name(number))
                if not isinstance(entry, Gst.Structure):
                    continue
                name = entry.get_value("type").value_nick
                if name in ("inbound-rtp", "outbound-rtp"):
                    fields = {"ssrc": "ssrc", "packets-received": "packetsReceived", "packets-sent": "packetsSent",
                              "packets-lost": "packetsLost", "kind": "kind"}
                    values = {ours: entry.get_value(field) for field, ours in fields.items() if entry.has_field(field)}
                    streams.setdefault(name, []).append(values)
            connection = self.webrtc.get_property("connection-state").value_nick
            print(json.dumps({"connection": connection, **self.seen, **streams}), flush=True)

        self.webrtc.emit("get-stats", None, Gst.Promise.new_with_change_func(collected))
        return True

    def obey(self):
        """Follows the commands on stdin until its end."""
        for line in sys.stdin:
            if line.strip() == "pause":
                for name in ("video", "audio"):
                    self.pipeline.get_by_name(name).set_property("drop", True)
        GLib.idle_add(self.loop.quit)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", choices=["publish", "play"])
    parser.add_argument("url")
    options = parser.parse_args()
    Gst.init(None)
    Peer(options.url, options.role == "publish").run()


main()
