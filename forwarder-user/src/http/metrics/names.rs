//! Every metric of our own: name, labels, meaning. The names are stable.

/// One metric.
pub(super) struct Metric {
    pub name: &'static str,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident = $name:literal [$($label:literal),*] $help:literal;)+) => {
        $(pub(super) static $constant: Metric = Metric { name: $name, labels: &[$($label),*], help: $help };)+

        /// All of them.
        #[cfg(test)]
        pub(super) static ALL: &[&Metric] = &[$(&$constant),+];
    };
}

metrics! {
    BUILD_INFO = "penstock_build_info" ["version", "commit", "build_id", "bpf_build_id"]
        "Always 1; the labels say which build runs.";

    STREAMS = "penstock_streams" ["state"]
        "Streams by state: live (a publisher is connected) or waiting (viewers only, or still connecting).";
    SESSIONS = "penstock_sessions" ["role", "state"]
        "Sessions by role and state.";
    CARRIED = "penstock_sessions_carried" ["role", "carrier"]
        "Connected sessions by what carries their media.";
    PROFILES = "penstock_sessions_profile" ["profile"]
        "Connected sessions by SRTP protection profile.";
    STREAM_VIEWERS = "penstock_stream_viewers_max" []
        "Viewers of the stream that has most.";
    CONTROL = "penstock_control_events_total" ["event"]
        "What the control task counts: sessions opened and ended, refusals, datagrams that it could not use.";

    RECEIVED_RATE = "penstock_received_bytes_per_second" ["kind"]
        "Payload that publishers send, between their last two reports, all together.";
    PUBLISHER_LOSS = "penstock_publisher_loss_ratio" ["at"]
        "Loss on the way from publishers, between their last two reports: median, 95th percentile and worst track.";
    PUBLISHER_JITTER = "penstock_publisher_jitter_seconds" ["at"]
        "Jitter of arrival (RFC 3550) from publishers: median, 95th percentile and worst track.";
    VIEWER_LOSS = "penstock_viewer_loss_ratio" ["at"]
        "Loss on the way to viewers, as their last reports say: median, 95th percentile and worst track.";
    VIEWER_JITTER = "penstock_viewer_jitter_seconds" ["at"]
        "Jitter of arrival at viewers, as their last reports say: median, 95th percentile and worst track.";
    VIEWER_RTT = "penstock_viewer_rtt_seconds" ["at"]
        "Round trip to viewers, by SR and RR: median, 95th percentile and worst track.";

    SOURCES = "penstock_sources" ["state"]
        "Cameras, encoders and RTSP publishers by state.";
    SOURCE_FAILURES = "penstock_source_failures_total" ["error"]
        "Times that a source failed, by the name of the error.";
    SOURCE_DROPPED = "penstock_source_dropped_total" ["reason"]
        "Packets of sources that were dropped before they reached an engine, by reason.";
    SOURCE_REASONS = "penstock_source_reasons" ["reason"]
        "Sources that play while viewers see nothing, or less than they should, by reason.";
    SOURCE_REASONS_BEGUN = "penstock_source_reasons_total" ["reason"]
        "Times that such a reason began to hold for a source.";
    SOURCE_STRAY = "penstock_source_stray_bytes_total" []
        "Bytes of RTSP connections that were neither a frame nor a message and were skipped.";
    RTSP = "penstock_rtsp_events_total" ["event"]
        "What the RTSP server counts: connections, refusals, and how connections ended.";

    PACKETS = "penstock_packets_total" ["engine", "direction"]
        "Media packets opened (in) and sealed (out).";
    BYTES = "penstock_payload_bytes_total" ["engine", "direction"]
        "Payload bytes in packets opened (in) and sealed (out).";
    DROPS = "penstock_drops_total" ["engine", "reason"]
        "Packets dropped, by reason.";
    PASSES = "penstock_passes_total" ["engine", "reason"]
        "Packets left to the network stack, by reason.";
    TRANSMITTED = "penstock_transmitted_total" ["engine"]
        "Copies that the device took, as far as the kernel reports it.";
    KEPT_BYTES = "penstock_kept_bytes" []
        "Memory that packets take which the userspace engine keeps: keyframe caches, and what may be sent again.";
    REPAIR_MEMORY = "penstock_repair_memory_bytes" []
        "Memory that packets take which viewers may ask for again, of both engines, keyframe caches left out.";
    REPAIR_REFUSED = "penstock_repair_memory_refused_total" []
        "How often a track could keep less than it would, because `repair.memory_mb` was reached.";
    GAPS = "penstock_gaps_total" ["engine"]
        "Publishers' packets that came before others of lower index: those were lost, or are late.";
    CACHE_STARTS = "penstock_keyframe_cache_starts_total" ["result"]
        "Viewers' tracks that began with a cached keyframe (hit), and those for which there was none (miss).";
    CACHE_OVERFLOWS = "penstock_keyframe_cache_overflows_total" []
        "Groups of pictures that were longer than `keyframe_cache_kb` and were let go.";
    BY_XDP = "penstock_transmitted_by_xdp_total" []
        "Of the userspace engine's, those that XDP sent.";
    RESENT = "penstock_resent_by_xdp_total" []
        "Frames sent once more by XDP, after the ring of a device was full. One frame may count several times.";
    BY_ROWS = "penstock_ghash_by_rows_total" ["direction"]
        "Packets whose tags came from rows that all copies share; the others went by table.";
    DIRECT = "penstock_direct_total" []
        "Packets opened and sealed for their only subscriber in one run, by the short way.";
    KICKS = "penstock_kicks_total" []
        "Frames to nobody in the place of a device's last copy, which was dropped.";
    UNDERRUNS = "penstock_keystream_underruns_total" ["direction"]
        "Packets whose keystream was not ready: correct, but several times as expensive.";
    TAPPED = "penstock_tapped_total" ["outcome"]
        "Plaintext packets from the kernel engine to the userspace engine: handed over, or too many for it.";
    KEYSTREAM_MEMORY = "penstock_keystream_memory_bytes" []
        "Memory in keystream rings.";
    KEYSTREAM_WINDOWS = "penstock_keystream_windows" []
        "Tracks that have a window of keystream ahead of time.";
    KEYSTREAM_INSTALLED = "penstock_keystream_windows_installed_total" []
        "Windows given to the kernel, first ones and ones of another size.";
    KEYSTREAM_REFUSED = "penstock_keystream_windows_refused_total" []
        "Windows that were not made or enlarged for want of memory (kernel.keystream_memory_mb).";
    KEYSTREAM_FILLED = "penstock_keystream_entries_filled_total" []
        "Packets' keystreams computed.";
    KEYSTREAM_WAKEUPS = "penstock_keystream_wakeups_total" []
        "How often the kernel woke the thread that computes keystream.";
    BPF_SECONDS = "penstock_bpf_run_seconds_total" ["program"]
        "Time in a BPF program, all CPUs together; only while BPF statistics are on (kernel.bpf_stats).";
    BPF_RUNS = "penstock_bpf_runs_total" ["program"]
        "Runs of a BPF program; only while BPF statistics are on (kernel.bpf_stats).";
    BPF_MEMORY = "penstock_bpf_map_memory_bytes" []
        "Kernel memory of the BPF maps that this process holds.";

    CPU = "penstock_machine_cpu_seconds_total" ["mode"]
        "CPU time of the whole machine since its start: XDP runs in softirq, which no process is charged for.";
    CPUS = "penstock_machine_cpus" []
        "CPUs of the machine.";
    LOG_DROPPED = "penstock_log_lines_dropped_total" []
        "Log lines lost: the log's reader was too slow, hung or had gone, or the disk was full.";

    HTTP_REQUESTS = "penstock_http_requests_total" ["route", "method", "status"]
        "HTTP requests answered, by route template.";
    HTTP_SECONDS = "penstock_http_request_seconds" ["route"]
        "Time from an HTTP request's header to its answer, by route template.";
}
