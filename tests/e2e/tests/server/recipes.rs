//! The commands of `docs/recipes.md`, run as they stand there but for names and times.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use tests_kit::camera::ffmpeg::Ffmpeg;
use tests_kit::peer::{Codec, Options, Source, Stats};
use tests_kit::stage::{Layout, Stage, clip};

const RECIPES: &str = include_str!("../../../../docs/recipes.md");
/// What an encoder of the tests sends: H.264 as browsers take it, and a sound.
const ENCODER: &str = "-re -f lavfi -i testsrc=size=320x180:rate=25 -f lavfi -i sine=frequency=440:sample_rate=48000 \
                       -c:v libx264 -preset ultrafast -tune zerolatency -profile:v baseline -pix_fmt yuv420p -g 25 \
                       -c:a aac";

fn stage() -> Result<Stage> {
    Stage::new(Layout::OneNic, "native", "[rtsp]\nlisten = [\"10.60.0.1:8554\"]\n")
}

/// The arguments of the command that contains `part`, with our names in place of the document's.
fn recipe(part: &str, replaced: &[(&str, &str)]) -> Result<Vec<String>> {
    let mut commands = RECIPES.lines().filter(|line| line.starts_with("ffmpeg ") && line.contains(part));
    let command = commands.next().with_context(|| format!("no command of docs/recipes.md has {part}"))?;
    let ours = [("rtsp://penstock.example:8554/door", "rtsp://10.60.0.1:8554/e2e")];
    let command = ours.iter().chain(replaced).fold(command.to_owned(), |command, (old, new)| command.replace(old, new));
    Ok(command.split_whitespace().skip(1).map(String::from).collect())
}

fn is_there(path: &Path, least: u64) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.len() >= least)
}

#[test]
fn record_a_picture_and_hls() -> Result<()> {
    let stage = stage()?;
    let publisher = stage.publish(&clip()?, stage.publishing())?;
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (file, picture, list) = (at("%s.mkv"), at("door.jpg"), at("door.m3u8"));
    let record = recipe("-f segment", &[("door-%Y%m%d-%H%M%S.mkv", &file), ("-segment_time 600", "-segment_time 1")])?;
    let record = Ffmpeg::run(&stage.near, &record)?;
    let still = Ffmpeg::run(&stage.near, &recipe("-update 1", &[("door.jpg", &picture)])?)?;
    let hls = Ffmpeg::run(&stage.near, &recipe("-f hls", &[("door.m3u8", &list)])?)?;
    let recorded = || -> Result<bool> {
        let files = std::fs::read_dir(folder.path())?.filter_map(Result::ok);
        let files = files.filter(|file| file.path().extension().is_some_and(|kind| kind == "mkv"));
        Ok(files.filter(|file| is_there(&file.path(), 10_000)).count() >= 2)
    };
    let said = || format!("{}{}{}", record.said(), still.said(), hls.said());
    let there = stage.until("two files are recorded", recorded);
    there.map_err(|error| error.context(said()))?;
    stage.until("there is a picture", || Ok(is_there(Path::new(&picture), 1000))).map_err(|e| e.context(said()))?;
    stage.until("there is a playlist", || Ok(is_there(Path::new(&list), 50))).map_err(|e| e.context(said()))?;
    publisher.stop()?;
    Ok(())
}

/// Sent on to a server that takes RTSP, which is the same one here; and a picture that is written again and again.
#[test]
fn sent_on_and_a_picture_that_is_kept_new() -> Result<()> {
    let stage = stage()?;
    let publisher = stage.publish(&clip()?, stage.publishing())?;
    let folder = tempfile::tempdir()?;
    let picture = folder.path().join("door.jpg").display().to_string();
    let still = recipe("fps=1/10", &[("door.jpg", &picture), ("fps=1/10", "fps=5")])?;
    let still = Ffmpeg::run(&stage.near, &still)?;
    let other = ("rtsp://mediamtx.example:8554/door", "rtsp://10.60.0.1:8554/other");
    let sent = Ffmpeg::run(&stage.near, &recipe("mediamtx.example", &[other])?)?;
    let arrives = stage.until("it is there as well", || Ok(stage.source_of("other")?["state"] == "playing"));
    arrives.map_err(|error| error.context(sent.said()))?;
    let codecs = stage.source_of("other")?["codecs"].to_string();
    ensure!(codecs.contains("VP8") && codecs.contains("opus"), "{codecs}");
    let written = || Ok::<_, anyhow::Error>(std::fs::metadata(&picture).ok().filter(|file| file.len() > 1000));
    stage.until("there is a picture", || Ok(written()?.is_some())).map_err(|error| error.context(still.said()))?;
    let first = written()?.context("it is gone")?.modified()?;
    stage.until("there is a newer one", || {
        Ok(written()?.is_some_and(|file| file.modified().is_ok_and(|at| at > first)))
    })?;
    publisher.stop()?;
    Ok(())
}

/// What comes by another protocol is seen by a viewer.
fn comes_in(part: &str, listens: (&str, &str), to: &[&str]) -> Result<()> {
    let stage = stage()?;
    let door = Ffmpeg::run(&stage.near, &recipe(part, &[listens])?)?;
    let mut encoder: Vec<String> = ENCODER.split_whitespace().map(String::from).collect();
    encoder.extend(to.iter().map(ToString::to_string));
    let mut sender = Ffmpeg::run(&stage.near, &encoder)?;
    let playing = stage.until("the stream is there", || {
        if sender.ended()? {
            // The door was not open yet.
            sender = Ffmpeg::run(&stage.near, &encoder)?;
        }
        Ok(stage.source_of("e2e")?["state"] == "playing")
    });
    playing.map_err(|error| error.context(format!("{}{}", door.said(), sender.said())))?;
    let viewers = stage.play(1, &Source::None, Options { video: vec![Codec::H264], ..stage.playing() })?;
    let all = |stats: &Stats| stats.video.packets > 40 && stats.audio.packets > 40;
    stage.until("a viewer gets both", || Ok(all(&viewers.stats()[0])))?;
    let stats = viewers.stop()?;
    ensure!(stats[0].video.duplicates == 0, "{stats:#?}");
    Ok(())
}

#[test]
fn rtmp_comes_in() -> Result<()> {
    let url = "rtmp://127.0.0.1:11935/live/door";
    comes_in("rtmp://", ("rtmp://0.0.0.0:1935/live/door", url), &["-f", "flv", url])
}

#[test]
fn srt_comes_in() -> Result<()> {
    let url = "srt://127.0.0.1:18890";
    let listener = format!("{url}?mode=listener");
    comes_in("srt://", ("srt://0.0.0.0:8890?mode=listener", &listener), &["-f", "mpegts", url])
}
