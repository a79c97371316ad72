//! What of a datagram is not given to the DTLS stack while a handshake goes on.
//!
//! Until it is complete nothing is authenticated, so that whoever can send from the peer's address, which UDP does
//! not check, could end it by an alert in the clear or by a ClientHello of his own. RFC 6347 §4.1.2.7 lets alerts
//! be ignored; a peer that gives up in truth is noticed by its silence.

use std::borrow::Cow;

const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Type, version, epoch, sequence number, length.
const RECORD_HEADER: usize = 13;
/// Type, length, message number, fragment offset, fragment length.
const MESSAGE_HEADER: usize = 12;

/// The `random` of a ClientHello: the same in all that one client sends for one handshake (RFC 6347 §4.2.1).
pub(crate) type Random = [u8; 32];

/// Messages of a client that come in the clear: ClientHello, Certificate, CertificateVerify, ClientKeyExchange.
const OF_CLIENT: [u8; 4] = [CLIENT_HELLO, 11, 15, 16];
/// And of a server: ServerHello, HelloVerifyRequest, NewSessionTicket, Certificate, ServerKeyExchange,
/// CertificateRequest, ServerHelloDone, CertificateStatus.
const OF_SERVER: [u8; 8] = [2, 3, 4, 11, 12, 13, 14, 22];

/// What was taken out of a datagram, and why.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ignored {
    /// Alerts and other records that have no place in the clear, or contradict themselves.
    pub misplaced: u32,
    /// The first foreign ClientHello.
    pub foreign: Option<Random>,
}

/// A record that stands at the begin of `bytes`, and what is behind it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = bytes.get(11..RECORD_HEADER)?;
    let len = usize::from(u16::from_be_bytes([len[0], len[1]]));
    bytes.split_at_checked(RECORD_HEADER + len)
}

/// Content type of a record in the clear.
fn plain(record: &[u8]) -> Option<u8> {
    let clear = record.get(3..5) == Some(&[0, 0]);
    record.first().copied().filter(|_| clear)
}

/// Has a record in the clear a place in a handshake with such a peer? What is sealed is the stack's to judge.
fn has_place(record: &[u8], client: bool) -> bool {
    let content = record.get(RECORD_HEADER..).unwrap_or_default();
    match plain(record) {
        None | Some(CHANGE_CIPHER_SPEC) => true,
        Some(HANDSHAKE) => {
            let Some(header) = content.first_chunk::<MESSAGE_HEADER>() else { return false };
            let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte));
            let (len, offset, fragment) = (number(&header[1..4]), number(&header[6..9]), number(&header[9..12]));
            let known: &[u8] = if client { &OF_CLIENT } else { &OF_SERVER };
            known.contains(&header[0]) && offset + fragment <= len && MESSAGE_HEADER + fragment <= content.len()
        }
        Some(_) => false,
    }
}

/// The `random`, if the record is the begin of a ClientHello.
fn client_random(record: &[u8]) -> Option<Random> {
    let message = record.get(RECORD_HEADER..).filter(|_| plain(record) == Some(HANDSHAKE))?;
    let begins = message.first() == Some(&CLIENT_HELLO) && message.get(6..9) == Some(&[0; 3]);
    // Behind two bytes of version.
    let body = message.get(MESSAGE_HEADER + 2..).filter(|_| begins)?;
    body.first_chunk().copied()
}

/// The `random` of the first ClientHello in a datagram.
pub(crate) fn first_random(mut datagram: &[u8]) -> Option<Random> {
    while let Some((this, rest)) = record(datagram) {
        if let Some(random) = client_random(this) {
            return Some(random);
        }
        datagram = rest;
    }
    None
}

/// The datagram without what has no place in the clear, and without ClientHellos of others than `client`.
/// `of_client`: the peer is one.
pub(crate) fn filter<'a>(datagram: &'a [u8], of_client: bool, client: Option<&Random>) -> (Cow<'a, [u8]>, Ignored) {
    let mut ignored = Ignored::default();
    let mut kept: Option<Vec<u8>> = None;
    let mut rest = datagram;
    while let Some((this, behind)) = record(rest) {
        let foreign = client_random(this).filter(|random| client.is_some_and(|client| client != random));
        let misplaced = !has_place(this, of_client);
        let before = datagram.len() - rest.len();
        if misplaced || foreign.is_some() {
            ignored.misplaced += u32::from(misplaced);
            ignored.foreign = ignored.foreign.or(foreign);
            kept.get_or_insert_with(|| datagram.get(..before).unwrap_or_default().to_vec());
        } else if let Some(kept) = &mut kept {
            kept.extend_from_slice(this);
        }
        rest = behind;
    }
    match kept {
        // What stands behind the last whole record is not one.
        Some(kept) => (Cow::Owned(kept), ignored),
        None => (Cow::Borrowed(datagram), ignored),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(kind: u8, epoch: u8, content: &[u8]) -> Vec<u8> {
        let mut record = vec![kind, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 0, 7];
        record.extend((content.len() as u16).to_be_bytes());
        record.extend(content);
        record
    }

    fn hello(random: u8) -> Vec<u8> {
        let mut content = vec![CLIENT_HELLO, 0, 0, 34, 0, 0, 0, 0, 0, 0, 0, 34, 0xfe, 0xfd];
        content.extend([random; 32]);
        made(HANDSHAKE, 0, &content)
    }

    #[test]
    fn alerts_in_the_clear_and_strangers_hellos_go_the_rest_stays() {
        let (alert, sealed) = (made(21, 0, &[2, 40]), made(21, 1, &[9; 20]));
        let other = made(HANDSHAKE, 0, &[16, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 7]);
        let datagram = [&alert[..], &hello(1), &other, &hello(2), &sealed, &alert].concat();
        let (kept, ignored) = filter(&datagram, true, Some(&[1; 32]));
        assert_eq!(kept, [&hello(1)[..], &other, &sealed].concat());
        assert_eq!(ignored, Ignored { misplaced: 2, foreign: Some([2; 32]) });
        let second = hello(2);
        let (kept, ignored) = filter(&second, true, None);
        assert!(matches!(kept, Cow::Borrowed(_)) && ignored == Ignored::default(), "nobody is known yet");
        assert_eq!(first_random(&datagram), Some([1; 32]));
    }

    /// What is left has nothing left to take out, and nothing that was not there.
    #[test]
    fn filtering_twice_is_filtering_once() {
        let mut seeded = crate::allocations::Seeded(3);
        let parts = [hello(1), hello(2), made(21, 0, &[2, 40]), made(23, 1, &[7; 30]), made(20, 0, &[1])];
        for _ in 0..20_000 {
            let datagram: Vec<u8> = (0..seeded.below(5)).flat_map(|_| parts[seeded.below(5)].clone()).collect();
            let datagram = if seeded.below(2) == 0 { datagram } else { seeded.mutate(&datagram) };
            let (once, _) = filter(&datagram, true, Some(&[1; 32]));
            let (twice, ignored) = filter(&once, true, Some(&[1; 32]));
            assert_eq!(once, twice);
            assert_eq!(ignored, Ignored::default());
            assert!(once.len() <= datagram.len());
        }
    }

    #[test]
    fn what_is_no_record_passes_as_it_is_or_is_cut_off() {
        let datagram = [hello(1), vec![22, 1]].concat();
        assert_eq!(filter(&datagram, true, None).0, datagram);
        for len in 0..datagram.len() {
            assert_eq!(filter(&datagram[..len], true, Some(&[1; 32])).0, &datagram[..len]);
        }
        assert!(filter(&datagram, false, None).0.is_empty(), "no server says that");
        let short = made(HANDSHAKE, 0, &[1]);
        assert_eq!(filter(&short, true, None).1.misplaced, 1);
    }
}
