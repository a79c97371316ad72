"""An encoder made of GStreamer's RTSP client that publishes H.264 and AAC.

Arguments: URL, protocol (tcp or udp), user, password, profile (avp or savp). Whatever certificate is shown is believed. Runs until its standard input ends, or until it fails; what
failed is on standard error.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
from gi.repository import GLib, Gst  # noqa: E402

PICTURE = "videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=15/1"
TONE = "audiotestsrc is-live=true volume=0.3 ! audioconvert ! audioresample"
PIPELINE = (
    f"rtspclientsink name=sink {PICTURE} ! openh264enc gop-size=15 bitrate=400000 ! h264parse ! sink. "
    f"{TONE} ! voaacenc ! aacparse ! sink."
)


def main():
    Gst.init(None)
    url, protocol, user, password, profile = sys.argv[1:6]
    pipeline = Gst.parse_launch(PIPELINE)
    sink = pipeline.get_by_name("sink")
    sink.set_property("location", url)
    sink.set_property("user-id", user)
    sink.set_property("user-pw", password)
    Gst.util_set_object_arg(sink, "protocols", protocol)
    Gst.util_set_object_arg(sink, "profiles", profile)
    Gst.util_set_object_arg(sink, "tls-validation-flags", "0")
    loop = GLib.MainLoop()
    failed = []

    def message(_bus, message):
        if message.type == Gst.MessageType.ERROR:
            failed.append(str(message.parse_error()))
            loop.quit()

    bus = pipeline.get_bus()
    bus.add_signal_watch()
    bus.connect("message", message)
    GLib.io_add_watch(sys.stdin, GLib.PRIORITY_DEFAULT, GLib.IOCondition.HUP, lambda *_: loop.quit())
    pipeline.set_state(Gst.State.PLAYING)
    loop.run()
    pipeline.set_state(Gst.State.NULL)
    if failed:
        sys.exit(failed[0])


main()
