//! The layer above the agent, with a peer that is honest, wanders, or lies about where it is.

#![expect(clippy::disallowed_methods, reason = "a test begins at any time")]

use std::net::SocketAddr;

use super::*;

const PWD: &str = "their-password-of-22-chars";

fn pair(port: u16) -> Pair {
    Pair { socket: 0, peer: SocketAddr::from(([192, 0, 2, 1], port)) }
}

struct Lab {
    ice: Ice,
    now: Instant,
}

impl Lab {
    fn new() -> Self {
        let now = Instant::now();
        let mut ice = Ice::new(now);
        ice.accept("theirs", PWD);
        Self { ice, now }
    }

    /// A check of the peer; what we send upon it.
    fn check(&mut self, port: u16, nominates: bool) -> Vec<Datagram> {
        let (ufrag, pwd) = self.ice.local();
        let (username, pwd) = (format!("{ufrag}:theirs"), pwd.to_owned());
        let message = StunMessage::binding_request(&username, TransId::new(), true, 1, 1, nominates);
        let bytes = request::sealed(message, &pwd).unwrap();
        let check = Check::parse(&bytes).unwrap();
        assert!(self.ice.is_authentic(&check));
        self.ice.check(self.now, pair(port), &check);
        self.ice.poll()
    }

    fn connected(port: u16) -> Self {
        let mut lab = Self::new();
        lab.check(port, true);
        lab.ice.commit();
        lab
    }

    /// What a peer answers that has received this request of ours.
    fn answer(&mut self, request: &Datagram, from: u16, pwd: &str) -> bool {
        let id = StunMessage::parse(&request.bytes).unwrap().trans_id();
        let bytes = request::sealed(StunMessage::binding_reply(id, pair(1).peer), pwd).unwrap();
        self.ice.answer(self.now, pair(from), &StunMessage::parse(&bytes).unwrap())
    }

    fn pass(&mut self, ms: u64) -> Vec<Datagram> {
        let mut sent = vec![];
        for _ in 0..ms / 10 {
            self.now += Duration::from_millis(10);
            self.ice.timeout(self.now);
            sent.extend(self.ice.poll());
        }
        sent
    }
}

fn requests(sent: &[Datagram]) -> Vec<&Datagram> {
    sent.iter().filter(|sent| StunMessage::parse(&sent.bytes).unwrap().is_binding_request()).collect()
}

#[test]
fn checks_are_answered_where_they_came_from_and_a_nomination_chooses() {
    let mut lab = Lab::new();
    let sent = lab.check(1, false);
    assert_eq!((sent.len(), sent[0].peer), (1, pair(1).peer));
    assert!(StunMessage::parse(&sent[0].bytes).unwrap().is_successful_binding_response());
    assert_eq!(lab.ice.chosen(), None, "nothing was nominated");
    lab.check(2, true);
    assert_eq!(lab.ice.chosen(), Some(pair(2)));
    lab.check(3, true);
    assert_eq!(lab.ice.chosen(), Some(pair(3)), "nothing has been sent yet");
}

#[test]
fn a_standing_session_moves_to_who_echoes_our_request() {
    let mut lab = Lab::connected(1);
    let sent = lab.check(2, true);
    let asked = requests(&sent);
    assert_eq!((asked.len(), asked[0].peer), (1, pair(2).peer), "at once");
    assert_eq!(lab.ice.chosen(), Some(pair(1)), "until it answers");
    assert!(!lab.answer(asked[0], 1, PWD), "from elsewhere");
    assert!(!lab.answer(asked[0], 2, "another password"));
    assert_eq!(lab.ice.chosen(), Some(pair(1)));
    assert!(lab.answer(asked[0], 2, PWD));
    assert_eq!(lab.ice.chosen(), Some(pair(2)));
    assert!(!lab.answer(asked[0], 2, PWD), "once");
    assert_eq!(lab.ice.deadline(), None);
}

#[test]
fn a_lost_request_is_repeated_and_given_up_after_a_while() {
    let mut lab = Lab::connected(1);
    lab.check(2, true);
    let again = lab.pass(10_000);
    assert_eq!(requests(&again).len(), TRIES as usize - 1);
    assert_eq!((lab.ice.chosen(), lab.ice.deadline()), (Some(pair(1)), None));
    let mut lab = Lab::connected(1);
    lab.check(2, true);
    let again = lab.pass(200);
    assert!(lab.answer(requests(&again)[0], 2, PWD));
    assert_eq!(lab.ice.chosen(), Some(pair(2)));
}

/// A spoofed check moves nothing, and costs its sender more than it costs the one whose address it has.
#[test]
fn ten_thousand_spoofed_addresses_cost_twenty_requests_and_eight_pairs() {
    let mut lab = Lab::connected(1);
    let (mut asked, mut checks, mut bytes) = (0, 0, 0);
    for port in 2..10_002 {
        let sent = lab.check(port, true);
        asked += requests(&sent).len();
        checks += sent.len() - requests(&sent).len();
        bytes += sent.iter().map(|sent| sent.bytes.len()).sum::<usize>();
        assert!(lab.ice.pairs() <= MAX_PAIRS);
    }
    assert_eq!((lab.ice.chosen(), checks), (Some(pair(1)), 10_000));
    assert_eq!(asked, REQUESTS as usize);
    assert!(bytes <= 10_000 * 128, "{bytes} bytes for as many checks of 100 bytes");
    lab.pass(11_000);
    let sent = lab.check(20_000, true);
    let asked = requests(&sent);
    assert!(lab.answer(asked[0], 20_000, PWD), "later the peer may move again");
}

/// Aggressive nomination (RFC 5245): USE-CANDIDATE with every check, on several pairs.
#[test]
fn who_nominates_several_pairs_moves_once() {
    let mut lab = Lab::connected(1);
    let mut moves = 0;
    for _ in 0..50 {
        for port in [1, 2] {
            let sent = lab.check(port, true);
            for asked in requests(&sent) {
                assert!(lab.answer(asked, port, PWD));
                moves += 1;
            }
        }
        lab.pass(500);
    }
    assert_eq!((moves, lab.ice.chosen()), (1, Some(pair(2))));
}

#[test]
fn a_peer_may_go_back_where_it_was() {
    let mut lab = Lab::connected(1);
    let sent = lab.check(2, true);
    assert!(lab.answer(requests(&sent)[0], 2, PWD));
    // By a check without a nomination, then one with it, as Chromium goes back.
    lab.check(1, false);
    let sent = lab.check(1, true);
    assert!(lab.answer(requests(&sent)[0], 1, PWD));
    assert_eq!(lab.ice.chosen(), Some(pair(1)));
    // By a NAT that gives the former port again, which only nominates.
    let mut lab = Lab::connected(1);
    let sent = lab.check(2, true);
    assert!(lab.answer(requests(&sent)[0], 2, PWD));
    let sent = [lab.check(1, true), lab.check(1, true)].concat();
    assert!(lab.answer(requests(&sent)[0], 1, PWD));
    assert_eq!(lab.ice.chosen(), Some(pair(1)));
}

#[test]
fn a_restart_keeps_media_where_it_is() {
    let mut lab = Lab::connected(1);
    let before = lab.ice.local().0.to_owned();
    lab.ice.restart("theirs", PWD);
    assert_ne!(lab.ice.local().0, before);
    assert_eq!(lab.ice.chosen(), Some(pair(1)));
    let sent = lab.check(2, true);
    assert!(lab.answer(requests(&sent)[0], 2, PWD));
}

#[test]
fn a_peer_that_claims_our_role_is_told_so() {
    let mut lab = Lab::new();
    let (ufrag, pwd) = lab.ice.local();
    let (username, pwd) = (format!("{ufrag}:theirs"), pwd.to_owned());
    let message = StunMessage::binding_request(&username, TransId::new(), false, u64::MAX, 1, true);
    let bytes = request::sealed(message, &pwd).unwrap();
    lab.ice.check(lab.now, pair(1), &Check::parse(&bytes).unwrap());
    let sent = lab.ice.poll();
    assert!(StunMessage::parse(&sent[0].bytes).unwrap().is_failed_binding_response());
    assert_eq!((lab.ice.chosen(), lab.ice.alive()), (None, None));
}

/// Anything in any order: bounded, and media only where somebody answered.
#[test]
fn noise_keeps_the_bounds() {
    let mut seed = 7u64;
    let mut next = move |bound: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % bound
    };
    let mut lab = Lab::connected(1);
    let (mut believed, mut asked) = (vec![pair(1)], vec![]);
    for _ in 0..20_000 {
        let port = 1 + next(40) as u16;
        match next(5) {
            0 | 1 => asked.extend(lab.check(port, next(2) == 0)),
            2 => asked.extend(lab.pass(next(300))),
            3 => {
                let requests: Vec<_> =
                    requests(&asked).into_iter().map(|sent| (sent.peer, sent.bytes.clone())).collect();
                if let Some((peer, bytes)) = requests.last() {
                    let request = Datagram { socket: 0, peer: *peer, bytes: bytes.clone() };
                    if lab.answer(&request, peer.port(), PWD) {
                        believed.push(Pair { socket: 0, peer: *peer });
                    }
                }
                asked.clear();
            }
            _ => lab.ice.probe(lab.now, pair(port)),
        }
        assert!(lab.ice.pairs() <= MAX_PAIRS);
        assert_eq!(lab.ice.chosen().as_ref(), believed.last());
    }
    assert!(believed.len() > 10);
}
