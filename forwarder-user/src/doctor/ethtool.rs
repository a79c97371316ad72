//! Settings of a network device, by the ioctl that every kernel has (linux/ethtool.h).

use std::os::fd::AsRawFd as _;

use socket2::{Domain, Socket, Type};

/// `SIOCETHTOOL`.
const ETHTOOL: libc::Ioctl = 0x8946;
/// `ETHTOOL_GDRVINFO`, `GRINGPARAM`, `GCHANNELS`, `GFLAGS`, and `ETH_FLAG_LRO`.
const DRIVER: u32 = 0x03;
const RINGS: u32 = 0x10;
const CHANNELS: u32 = 0x3c;
const FLAGS: u32 = 0x25;
const LRO: u32 = 1 << 15;

/// What the driver says; `None` for what it does not.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub driver: Option<String>,
    pub lro: Option<bool>,
    /// Entries of a transmit ring: now, and at most.
    pub tx_ring: Option<(u32, u32)>,
    /// Combined queues: now, and at most.
    pub queues: Option<(u32, u32)>,
}

/// Asks the driver of an interface.
pub(super) fn read(name: &str) -> Settings {
    let Ok(socket) = Socket::new(Domain::IPV4, Type::DGRAM, None) else { return Settings::default() };
    let ask = |command| ask(&socket, name, command).ok();
    Settings {
        driver: ask(DRIVER).map(|words| text(&words)),
        lro: ask(FLAGS).map(|words| words[1] & LRO != 0),
        // struct ethtool_ringparam: cmd, four maxima (rx, mini, jumbo, tx), the same four now.
        tx_ring: ask(RINGS).map(|words| (words[8], words[4])).filter(|(now, _)| *now > 0),
        // struct ethtool_channels: cmd, four maxima (rx, tx, other, combined), the same four now. A device
        // without combined queues has pairs of the others.
        queues: ask(CHANNELS).map(|words| match words[4] {
            0 => (words[5].min(words[6]), words[1].min(words[2])),
            most => (words[8], most),
        }),
    }
}

/// Longer than each of the structs above (`ethtool_drvinfo` has 196 bytes).
type Words = [u32; 64];

fn ask(socket: &Socket, name: &str, command: u32) -> std::io::Result<Words> {
    let mut words: Words = [0; 64];
    words[0] = command;
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte less than the field has: the name ends in NUL.
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
    // SAFETY: the kernel reads `request` and writes the struct of `command`, which is shorter than `words`;
    // both outlive the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), ETHTOOL, &raw mut request) } {
        0 => Ok(words),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// `driver` of struct ethtool_drvinfo: 32 bytes behind the command.
fn text(words: &Words) -> String {
    let bytes = words.iter().skip(1).take(8).flat_map(|word| word.to_ne_bytes());
    String::from_utf8_lossy(&bytes.take_while(|byte| *byte != 0).collect::<Vec<_>>()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_has_no_rings() {
        let settings = read("lo");
        assert_eq!((settings.tx_ring, settings.lro), (None, Some(false)), "{settings:?}");
        assert!(read("no-such-device").driver.is_none());
    }
}
