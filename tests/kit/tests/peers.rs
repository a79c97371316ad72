//! The peers themselves, against the smallest forwarder that str0m allows: they connect, and they
//! notice every kind of damage. Loopback only; no root.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests_kit::forwarder::{Damage, Forwarder, Manners, faithful};
use tests_kit::peer::{Kind, Options, Publisher, Source, Stats, Synthetic, Viewers};

fn forwarder(damage: Damage) -> Result<Forwarder> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Forwarder::start(any, any, Manners { damage, ..Manners::default() })
}

/// Counters of one viewer after some seconds' worth of packets through a forwarder with `damage`.
fn viewer_behind(damage: Damage) -> Result<Stats> {
    // One after another: loopback and two cores must not add losses of their own.
    static SERIAL: Mutex<()> = Mutex::new(());
    let _serial = SERIAL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let forwarder = forwarder(damage)?;
    let source = Source::Synthetic(Synthetic { rate: 300, largest: 1200, first_sequence: 65_500 });
    let options = Options { audio: vec![], ..Options::default() };
    let publisher = Publisher::start(&forwarder.url("x/whip"), source.clone(), options.clone())?;
    let viewers = Viewers::start(&forwarder.url("x/whep"), 1, source, options)?;
    let end = Instant::now() + Duration::from_secs(20);
    while viewers.stats()[0].video.packets < 300 {
        ensure!(Instant::now() < end, "{:#?}\n{:#?}", publisher.stats(), viewers.stats());
        std::thread::sleep(Duration::from_millis(20));
    }
    publisher.pause(true)?;
    std::thread::sleep(Duration::from_millis(200));
    Ok(viewers.stop()?.remove(0))
}

#[test]
fn a_faithful_forwarder_passes() -> Result<()> {
    let stats = viewer_behind(faithful)?;
    let video = stats.media(Kind::Video);
    assert_eq!((video.lost, video.duplicates, video.mismatches), (0, 0, 0), "{video:#?}");
    assert_eq!(video.decrypted, video.packets);
    assert_eq!(video.verified, video.decrypted);
    Ok(())
}

#[test]
fn a_flipped_bit_a_loss_and_a_wrong_header_are_seen() -> Result<()> {
    let flipped = viewer_behind(|copy, mut packet| {
        packet.payload[0] ^= if copy == 100 { 0x80 } else { 0 };
        Some(packet)
    })?;
    assert_eq!((flipped.video.mismatches, flipped.video.lost), (1, 0), "{flipped:#?}");

    let lossy = viewer_behind(|copy, packet| match copy {
        100..103 => None,
        _ => Some(packet),
    })?;
    assert_eq!((lossy.video.mismatches, lossy.video.lost), (0, 3), "{lossy:#?}");

    let header = viewer_behind(|copy, mut packet| {
        packet.marker ^= copy == 100;
        packet.timestamp = packet.timestamp.wrapping_add(u32::from(copy == 150));
        Some(packet)
    })?;
    assert_eq!((header.video.mismatches, header.video.lost), (2, 0), "{header:#?}");
    Ok(())
}

#[test]
fn many_viewers_share_a_thread() -> Result<()> {
    let forwarder = forwarder(faithful)?;
    let source = Source::Synthetic(Synthetic { rate: 50, largest: 300, first_sequence: 1 });
    let options = Options { audio: vec![], ..Options::default() };
    let publisher = Publisher::start(&forwarder.url("x/whip"), source.clone(), options.clone())?;
    let viewers = Viewers::start(&forwarder.url("x/whep"), 20, source, options)?;
    let end = Instant::now() + Duration::from_secs(20);
    while viewers.stats().iter().any(|one| one.video.verified < 50) {
        ensure!(Instant::now() < end, "{:#?}", viewers.stats());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(viewers.stats().iter().all(|one| one.video.mismatches == 0));
    publisher.stop()?;
    Ok(())
}
