"""A camera made of GStreamer's RTSP server, which has nothing in common with the server under test.

Streams: /alaw (H.264 and PCMA), /aac (H.264 and AAC), /hevc (H.265), each behind the digest password me:s3cret.
Arguments: port, and for RTSPS with SRTP (RTP/SAVP, keys by MIKEY) files with certificate and key.
Prints a line when it listens; ends with its standard input.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gio, GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

PICTURE = "videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=15/1"
TONE = "audiotestsrc is-live=true volume=0.3 ! audioconvert ! audioresample"
# Parameter sets in the description only, and fragments larger than a browser takes.
AVC = "openh264enc gop-size=15 bitrate=400000 ! rtph264pay name=pay0 pt=96 config-interval=0 mtu=1460"
HEVC = "x265enc key-int-max=15 tune=zerolatency speed-preset=ultrafast bitrate=300 ! rtph265pay name=pay0 pt=96"
STREAMS = {
    "/alaw": f"{PICTURE} ! {AVC} {TONE} ! audio/x-raw,rate=8000,channels=1 ! alawenc ! rtppcmapay name=pay1 pt=8",
    "/aac": f"{PICTURE} ! {AVC} {TONE} ! voaacenc ! rtpmp4gpay name=pay1 pt=97",
    "/hevc": f"{PICTURE} ! {HEVC}",
}


def main():
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_service(sys.argv[1])
    files = sys.argv[2:4]
    auth = GstRtspServer.RTSPAuth()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    token = GstRtspServer.RTSPToken()
    token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, "viewer")
    auth.add_digest("me", "s3cret", token)
    if files:
        auth.set_tls_certificate(Gio.TlsCertificate.new_from_files(*files))
    server.set_auth(auth)
    for path, pipeline in STREAMS.items():
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(f"( {pipeline} )")
        factory.set_shared(True)
        if files:
            factory.set_profiles(GstRtsp.RTSPProfile.SAVP)
        factory.add_role_from_structure(allowed())
        server.get_mount_points().add_factory(path, factory)
    if not server.attach(None):
        sys.exit("the port is in use")
    print("listening", flush=True)
    loop = GLib.MainLoop()
    GLib.io_add_watch(sys.stdin.fileno(), GLib.IO_HUP | GLib.IO_IN, lambda *_: loop.quit())
    loop.run()


def allowed():
    """What the one user may do."""
    role = Gst.Structure.new_empty("viewer")
    for permission in ("media.factory.access", "media.factory.construct"):
        role.set_value(permission, True)
    return role


main()
