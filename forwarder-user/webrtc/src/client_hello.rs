//! What a DTLS client's first message tells before the handshake begins: which SRTP profiles it knows
//! (RFC 5764 §4.1.1). ClientHellos come in fragments (RFC 6347 §4.2.3), of OpenSSL as small as 230 bytes.

/// Datagrams that are looked at before the question is given up.
const MAX_DATAGRAMS: usize = 16;
/// Bytes of them that are kept.
const MAX_KEPT: usize = 16 * 1024;
/// Largest ClientHello that is put together, in bytes.
const MAX_LEN: usize = 8192;
/// Fragments that are looked at. Honest ones have 200 bytes at least.
const MAX_FRAGMENTS: usize = 64;

/// A ClientHello as far as it has arrived: in the datagrams, which the stack needs as they came.
#[derive(Debug, Default)]
pub(crate) struct ClientHello {
    datagrams: Vec<Vec<u8>>,
    kept: usize,
}

/// What is known so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Knows {
    /// SRTP, and of it the counter mode of RFC 3711 alone.
    CounterModeOnly,
    /// An AES-GCM profile, or no SRTP at all, or it cannot be found out.
    Other,
    /// Parts are missing.
    NotYet,
}

/// Where a fragment belongs, and in how long a message.
struct Fragment<'a> {
    len: usize,
    offset: usize,
    bytes: &'a [u8],
}

impl ClientHello {
    /// Takes the next datagram.
    pub(crate) fn push(&mut self, datagram: &[u8]) -> Knows {
        if self.datagrams.len() == MAX_DATAGRAMS || self.kept + datagram.len() > MAX_KEPT {
            return Knows::Other;
        }
        self.kept += datagram.len();
        self.datagrams.push(datagram.to_vec());
        let mut fragments = Vec::new();
        let read = self.datagrams.iter().try_for_each(|datagram| read_fragments(datagram, &mut fragments));
        let Some(len) = fragments.first().map(|fragment| fragment.len).filter(|_| read.is_some()) else {
            return Knows::Other;
        };
        // Those of another message, or beyond its end, are nobody's mistake.
        let fits = |fragment: &Fragment<'_>| fragment.len == len && fragment.offset + fragment.bytes.len() <= len;
        if len > MAX_LEN || !fragments.iter().all(fits) {
            return Knows::Other;
        }
        let beginning = beginning(&mut fragments);
        let mut rest = &beginning[..];
        match srtp_profiles(&mut rest) {
            Some(profiles) if profiles.chunks_exact(2).any(|profile| matches!(profile, [0, 7 | 8])) => Knows::Other,
            Some(_) => Knows::CounterModeOnly,
            None if beginning.len() < len => Knows::NotYet,
            None => Knows::Other,
        }
    }

    /// What has come so far, for the stack.
    pub(crate) fn into_datagrams(self) -> Vec<Vec<u8>> {
        self.datagrams
    }
}

/// Enters the fragments of a datagram. `None`: it has other things too, or too many.
fn read_fragments<'a>(mut datagram: &'a [u8], fragments: &mut Vec<Fragment<'a>>) -> Option<()> {
    const HANDSHAKE: u8 = 22;
    const CLIENT_HELLO: u8 = 1;
    while !datagram.is_empty() {
        // Type, version, epoch and sequence number, then length.
        let record = take(&mut datagram, 11)?;
        let mut content = take_vector(&mut datagram, 2)?;
        // Type, length (3), message number (2), fragment offset (3), fragment length (3).
        let header = take(&mut content, 9)?;
        let bytes = take_vector(&mut content, 3)?;
        if record[0] != HANDSHAKE || header[0] != CLIENT_HELLO || fragments.len() == MAX_FRAGMENTS {
            return None;
        }
        fragments.push(Fragment { len: number(&header[1..4]), offset: number(&header[6..9]), bytes });
    }
    Some(())
}

/// The message as far as it has come without a gap.
fn beginning(fragments: &mut [Fragment<'_>]) -> Vec<u8> {
    fragments.sort_by_key(|fragment| fragment.offset);
    let mut bytes: Vec<u8> = Vec::new();
    for fragment in fragments {
        match bytes.len().checked_sub(fragment.offset) {
            Some(known) => bytes.extend_from_slice(fragment.bytes.get(known..).unwrap_or_default()),
            None => break,
        }
    }
    bytes
}

/// The list of the extension use_srtp, if it has come.
fn srtp_profiles<'a>(hello: &mut &'a [u8]) -> Option<&'a [u8]> {
    const USE_SRTP: u16 = 14;
    // Version and random; then session id, cookie, cipher suites and compression methods.
    take(hello, 34)?;
    for length_bytes in [1, 1, 2, 1] {
        take_vector(hello, length_bytes)?;
    }
    // Length of all extensions.
    take(hello, 2)?;
    loop {
        let kind = take(hello, 2)?;
        let mut content = take_vector(hello, 2)?;
        if kind == USE_SRTP.to_be_bytes() {
            return take_vector(&mut content, 2);
        }
    }
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

/// A vector of TLS: its length in `length_bytes` bytes, then that many bytes.
fn take_vector<'a>(bytes: &mut &'a [u8], length_bytes: usize) -> Option<&'a [u8]> {
    let len = number(take(bytes, length_bytes)?);
    take(bytes, len)
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Body of a ClientHello with these SRTP profiles.
    fn hello(profiles: &[u16]) -> Vec<u8> {
        let list: Vec<u8> = profiles.iter().flat_map(|profile| profile.to_be_bytes()).collect();
        let mut srtp = (list.len() as u16).to_be_bytes().to_vec();
        srtp.extend(list);
        srtp.push(0);
        let mut extensions = vec![0, 23, 0, 0, 0, 14];
        extensions.extend((srtp.len() as u16).to_be_bytes());
        extensions.extend(srtp);
        let mut body = vec![0xfe, 0xfd];
        body.extend([7; 32]);
        body.extend([0, 2, 1, 2, 0, 2, 0xc0, 0x2b, 1, 0]);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        body
    }

    /// The record with one fragment.
    fn record(body: &[u8], from: usize, to: usize) -> Vec<u8> {
        let three = |number: usize| (number as u32).to_be_bytes()[1..].to_vec();
        let mut message = vec![22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
        message.extend((to - from + 12).to_be_bytes()[6..].iter());
        message.push(1);
        message.extend(three(body.len()));
        message.extend([0, 0]);
        message.extend(three(from));
        message.extend(three(to - from));
        message.extend(&body[from..to]);
        message
    }

    fn whole(profiles: &[u16]) -> Knows {
        let body = hello(profiles);
        ClientHello::default().push(&record(&body, 0, body.len()))
    }

    #[test]
    fn tells_who_knows_no_gcm() {
        assert_eq!(whole(&[1]), Knows::CounterModeOnly);
        assert_eq!(whole(&[1, 2]), Knows::CounterModeOnly);
        assert_eq!(whole(&[1, 7]), Knows::Other);
        assert_eq!(whole(&[8, 7, 1]), Knows::Other);
    }

    #[test]
    fn fragments_in_any_order_and_twice() {
        let body = hello(&[1]);
        let (first, second, third) = (record(&body, 0, 20), record(&body, 20, 50), record(&body, 50, body.len()));
        let mut hello = ClientHello::default();
        assert_eq!(hello.push(&third), Knows::NotYet);
        assert_eq!(hello.push(&first), Knows::NotYet);
        assert_eq!(hello.push(&first), Knows::NotYet);
        assert_eq!(hello.push(&second), Knows::CounterModeOnly);
        let all = [first, second, third].concat();
        assert_eq!(ClientHello::default().push(&all), Knows::CounterModeOnly);
    }

    #[test]
    fn what_cannot_be_read_is_nobodys() {
        let body = hello(&[1]);
        let message = record(&body, 0, body.len());
        for len in 1..message.len() {
            assert_eq!(ClientHello::default().push(&message[..len]), Knows::Other, "{len} bytes");
        }
        for cut in 0..body.len() {
            assert_ne!(ClientHello::default().push(&record(&body[..cut], 0, cut)), Knows::NotYet, "{cut} bytes");
        }
        assert_eq!(ClientHello::default().push(&[20; 64]), Knows::Other);
        let mut waiting = ClientHello::default();
        let first = record(&body, 0, 20);
        assert!((0..MAX_DATAGRAMS).all(|_| waiting.push(&first) == Knows::NotYet));
        assert_eq!(waiting.push(&first), Knows::Other);
        let lies = [record(&body, 20, 50), [record(&body, 0, 20), record(&body[..40], 20, 40)].concat()];
        assert_eq!(ClientHello::default().push(&lies[1]), Knows::Other, "of two lengths");
        let mut beyond = record(&body, 0, 20);
        beyond[19..22].copy_from_slice(&[0xff; 3]);
        assert_eq!(ClientHello::default().push(&beyond), Knows::Other, "behind its own end");
        assert_eq!(ClientHello::default().push(&lies[0]), Knows::NotYet);
    }

    #[test]
    fn damaged_hellos_keep_the_bounds() {
        let (mut seeded, body) = (crate::allocations::Seeded(5), hello(&[1, 7]));
        for _ in 0..3000 {
            let mut waiting = ClientHello::default();
            for _ in 0..20 {
                let (from, len) = (seeded.below(body.len()), seeded.below(body.len()));
                let datagram = record(&body, from, (from + len).min(body.len()));
                let datagram = if seeded.below(3) == 0 { seeded.mutate(&datagram) } else { datagram };
                if waiting.push(&datagram) != Knows::NotYet {
                    break;
                }
                assert!(waiting.kept <= MAX_KEPT && waiting.datagrams.len() <= MAX_DATAGRAMS);
            }
        }
    }

    /// Whatever a stranger sends as the begin of a handshake: so much is kept, and no more is asked for.
    #[test]
    fn the_worst_hellos_cost_no_more_than_the_datagrams() {
        let mut body = hello(&[1]);
        body.resize(8192, 0);
        let tiny: Vec<u8> = (0..60).flat_map(|at| record(&body, at, at + 1)).collect();
        let empty: Vec<u8> = std::iter::repeat_n(record(&body, 0, 0), 60).flatten().collect();
        let large = record(&body, 4096, 5600);
        let huge = vec![22; 60_000];
        for datagram in [tiny, empty, large, huge] {
            let mut hello = ClientHello::default();
            let work = || (0..200).map(|_| hello.push(&datagram)).filter(|knows| *knows == Knows::NotYet).count();
            let (waited, allocations, bytes) = crate::allocations::count(work);
            assert!(waited <= MAX_DATAGRAMS && hello.kept <= MAX_KEPT);
            assert!(bytes <= 200 * 1024 && allocations <= 400, "{allocations} allocations of {bytes} bytes");
        }
    }
}
