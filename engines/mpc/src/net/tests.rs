//! Links, shapes and certificates.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fault::{Fault, faulty, memory};
use super::frame::Kind;
use super::tls::Stream;
use super::{
    Class, Counters, Dial, Endpoint, Identity, Link, LinkShape, Listener, Net, NetError, What, connect, plain_link, together,
};
use crate::{CertPin, Role};

const STALL: Duration = Duration::from_millis(300);

fn links([a, b]: [Box<dyn Stream>; 2]) -> [Link; 2] {
    let [ca, cb] = [0, 1].map(|_| Arc::new(Counters::default()));
    [
        plain_link(Role::Party0, Role::Party1, "b".into(), STALL, a, ca),
        plain_link(Role::Party1, Role::Party0, "a".into(), STALL, b, cb),
    ]
}

fn round(round: u32) -> What {
    What::Round { round, inference: 3 }
}

/// Sends three round frames of 10 bytes through the fault; what the receiver makes of them.
fn three_frames(fault: Fault) -> Result<Vec<Vec<u8>>, NetError> {
    let net = Net::new().unwrap();
    net.block_on(async {
        let [mut a, mut b] = links(faulty(fault));
        for i in 0..3_u8 {
            a.send(Kind::Round, &[i; 10], round(u32::from(i))).await.unwrap();
        }
        let mut got = Vec::new();
        for i in 0..3 {
            got.push(b.recv(Kind::Round, 10, round(i)).await?);
        }
        Ok(got)
    })
}

#[test]
fn frames_arrive_in_order_over_a_sound_link() {
    assert_eq!(three_frames(Fault::None).unwrap(), [[0; 10], [1; 10], [2; 10]]);
}

#[test]
fn dropped_repeated_and_swapped_frames_are_sequence_errors() {
    for (fault, due, came) in [(Fault::Drop(1), 1, 2), (Fault::Duplicate(1), 2, 1), (Fault::Swap(0), 0, 1)] {
        match three_frames(fault) {
            Err(NetError::Sequence { expected, actual, .. }) => assert_eq!((expected, actual), (due, came), "{fault:?}"),
            other => panic!("{fault:?}: {other:?}"),
        }
    }
}

#[test]
fn a_frame_of_another_length_is_refused_before_it_is_read() {
    assert!(matches!(three_frames(Fault::Shorten(2)), Err(NetError::Length { expected: 10, actual: 9, .. })));
    let net = Net::new().unwrap();
    net.block_on(async {
        let [mut a, mut b] = links(memory());
        // A terabyte is announced, and not one byte of it has to be there for the refusal.
        let (sent, got, ()) =
            together(a.send(Kind::Round, &[0; 11], round(0)), b.recv(Kind::Round, 10, round(0)), async {}).await;
        sent.unwrap();
        assert!(matches!(got, Err(NetError::Length { expected: 10, actual: 11, .. })));
        assert_eq!(b.traffic().payload_received, 0);
    });
}

#[test]
fn a_truncated_stream_is_a_closed_link_and_names_the_wait() {
    let error = three_frames(Fault::CutOff(1)).unwrap_err();
    assert!(matches!(error, NetError::Closed { .. }));
    assert_eq!(error.to_string(), "party 1 waits for round 1 of inference 3 from party 0 at a: the connection was closed");
}

#[test]
fn foreign_frames_and_damaged_headers_are_refused() {
    assert!(matches!(three_frames(Fault::Foreign(1)), Err(NetError::Kind { expected: Kind::Round, actual: 11, .. })));
    assert!(matches!(three_frames(Fault::FlipHeader(1)), Err(NetError::Kind { .. })));
}

#[test]
fn a_stall_names_what_is_waited_for() {
    let error = three_frames(Fault::Hold(2)).unwrap_err();
    assert_eq!(error.to_string(), "party 1 waits for round 2 of inference 3 from party 0 at a: nothing came for 300ms");
}

#[test]
fn a_flipped_payload_bit_shows_in_the_transcripts() {
    let net = Net::new().unwrap();
    for (fault, equal) in [(Fault::None, true), (Fault::FlipPayload(0), false)] {
        net.block_on(async {
            let [mut a, mut b] = links(faulty(fault));
            let (x, y, ()) =
                together(a.exchange(Kind::Round, &[7; 5], 6, round(0)), b.exchange(Kind::Round, &[8; 6], 5, round(0)), async {})
                    .await;
            assert_eq!(x.unwrap(), [8; 6]);
            y.unwrap();
            assert_eq!(a.transcripts().1, b.transcripts().0);
            assert_eq!(a.transcripts().0 == b.transcripts().1, equal);
        });
    }
}

#[test]
fn frames_larger_than_all_buffers_cross_in_both_directions_at_once() {
    let net = Net::new().unwrap();
    net.block_on(async {
        let [mut a, mut b] = links(memory());
        let big = vec![5; 3 << 20];
        let (x, y, ()) = together(
            a.exchange(Kind::Round, &big, big.len(), round(0)),
            b.exchange(Kind::Round, &big, big.len(), round(0)),
            async {},
        )
        .await;
        assert!(x.unwrap() == big && y.unwrap() == big);
        assert_eq!(a.traffic().payload_sent, big.len() as u64);
    });
}

#[test]
fn a_peer_that_gives_up_tells_its_class() {
    let net = Net::new().unwrap();
    net.block_on(async {
        let [mut a, mut b] = links(memory());
        a.abort(Class::IndexReuse).await;
        let error = b.recv(Kind::Round, 10, round(0)).await.unwrap_err();
        assert!(matches!(error, NetError::Aborted { class: Class::IndexReuse, .. }), "{error}");
    });
}

/// Certificates of all roles and what each pins.
struct Town {
    identities: BTreeMap<Role, Identity>,
    pins: BTreeMap<Role, CertPin>,
}

impl Town {
    fn new() -> Self {
        let identities: BTreeMap<_, _> = Role::ALL.map(|r| (r, Identity::generate(r).unwrap())).into();
        let pins = identities.iter().map(|(r, i)| (*r, i.pin())).collect();
        Self { identities, pins }
    }

    fn endpoint(&mut self, role: Role) -> Endpoint {
        Endpoint::new(self.identities.remove(&role).unwrap(), self.pins.clone())
    }
}

const DIAL: Dial = Dial { connect: Duration::from_millis(800), stall: STALL, shape: LinkShape::LOOPBACK };

/// Party 0 listens for `due`; `server` and `client` are the two ends' certificates and pins.
fn meet(
    server: &Endpoint,
    client: &Endpoint,
    as_role: Role,
    due: Role,
    shape: LinkShape,
) -> (Result<Link, NetError>, Result<Link, NetError>) {
    let net = Net::new().unwrap();
    net.block_on(async {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.addr().to_string();
        let due = [(due, shape)];
        let dial = Dial { shape, ..DIAL };
        let accepted = listener.accept(server, Role::Party0, &due, dial);
        let dialled = async {
            let mut link = connect(client, as_role, Role::Party0, &addr, dial).await?;
            // With TLS 1.3 a client learns that its certificate was refused when it reads.
            link.exchange(Kind::Hello, b"hi", 2, What::Hello).await?;
            Ok(link)
        };
        let answered = async {
            let mut link = accepted.await?.pop().unwrap();
            link.exchange(Kind::Hello, b"ho", 2, What::Hello).await?;
            Ok(link)
        };
        let (a, b, ()) = Box::pin(together(answered, dialled, async {})).await;
        (a, b)
    })
}

#[test]
fn pinned_roles_meet_over_tls() {
    let mut town = Town::new();
    let (server, client) = (town.endpoint(Role::Party0), town.endpoint(Role::Party1));
    let (a, b) = meet(&server, &client, Role::Party1, Role::Party1, LinkShape::LOOPBACK);
    assert_eq!((a.unwrap().peer(), b.unwrap().peer()), (Role::Party1, Role::Party0));
}

/// Parties' CPUs may differ, and with them the library that seals records.
#[cfg(target_arch = "x86_64")]
#[test]
fn records_that_one_library_seals_the_other_opens() {
    use rustls::crypto::{aws_lc_rs, ring};

    let suites = [aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256, ring::cipher_suite::TLS13_AES_128_GCM_SHA256];
    for (at_server, at_client) in [(0, 1), (1, 0)] {
        let mut town = Town::new();
        let mut end =
            |role: Role, at: usize| Endpoint::with_suite(town.identities.remove(&role).unwrap(), town.pins.clone(), suites[at]);
        let (server, client) = (end(Role::Party0, at_server), end(Role::Party1, at_client));
        let (a, b) = meet(&server, &client, Role::Party1, Role::Party1, LinkShape::LOOPBACK);
        assert_eq!((a.unwrap().peer(), b.unwrap().peer()), (Role::Party1, Role::Party0));
    }
}

/// More strangers than shake hands at once; each would have its turn first if turns were taken.
#[test]
fn strangers_that_say_nothing_do_not_hold_up_the_peer() {
    let mut town = Town::new();
    let (server, client) = (town.endpoint(Role::Party0), town.endpoint(Role::Party1));
    let net = Net::new().unwrap();
    net.block_on(async {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.addr().to_string();
        let due = [(Role::Party1, LinkShape::LOOPBACK)];
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(tokio::net::TcpStream::connect(&addr).await.unwrap());
        }
        let mut noisy = tokio::net::TcpStream::connect(&addr).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut noisy, b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let dial = Dial { connect: Duration::from_secs(8), ..DIAL };
        let (a, b, ()) = together(
            listener.accept(&server, Role::Party0, &due, dial),
            connect(&client, Role::Party1, Role::Party0, &addr, dial),
            async {},
        )
        .await;
        assert_eq!((a.unwrap().pop().unwrap().peer(), b.unwrap().peer()), (Role::Party1, Role::Party0));
        drop(silent);
    });
}

#[test]
fn a_client_with_a_strange_certificate_is_refused() {
    let mut town = Town::new();
    let server = town.endpoint(Role::Party0);
    let stranger = Endpoint::new(Identity::generate(Role::Party1).unwrap(), town.pins.clone());
    let (a, b) = meet(&server, &stranger, Role::Party1, Role::Party1, LinkShape::LOOPBACK);
    let error = a.map(drop).unwrap_err().to_string();
    assert!(error.starts_with("party 0 waits for a connection from party 1 at 127.0.0.1:"), "{error}");
    assert!(b.is_err());
}

#[test]
fn a_role_that_is_not_due_is_refused_though_its_certificate_is_pinned() {
    let mut town = Town::new();
    let (server, dealer) = (town.endpoint(Role::Party0), town.endpoint(Role::Dealer));
    let (a, b) = meet(&server, &dealer, Role::Dealer, Role::Party1, LinkShape::LOOPBACK);
    assert!(a.is_err() && b.is_err());
}

#[test]
fn a_server_with_a_strange_certificate_is_refused() {
    let mut town = Town::new();
    let client = town.endpoint(Role::Party1);
    let impostor = Endpoint::new(Identity::generate(Role::Party0).unwrap(), town.pins.clone());
    let (a, b) = meet(&impostor, &client, Role::Party1, Role::Party1, LinkShape::LOOPBACK);
    assert!(a.is_err());
    let error = b.map(drop).unwrap_err().to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
}

/// Both ends of a link of this shape, over TLS.
async fn shaped(shape: LinkShape) -> (Link, Link) {
    let mut town = Town::new();
    let (server, client) = (town.endpoint(Role::Party0), town.endpoint(Role::Party1));
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.addr().to_string();
    let dial = Dial { shape, ..DIAL };
    let due = [(Role::Party1, shape)];
    let (a, b, ()) = together(
        listener.accept(&server, Role::Party0, &due, dial),
        connect(&client, Role::Party1, Role::Party0, &addr, dial),
        async {},
    )
    .await;
    (a.unwrap().pop().unwrap(), b.unwrap())
}

#[test]
fn a_shaped_link_has_the_delay_and_the_rate_it_was_given() {
    let shape = LinkShape { rtt_ms: 40.0, mbit: Some(80.0) };
    let net = Net::new().unwrap();
    net.block_on(async {
        let (mut a, mut b) = shaped(shape).await;
        for (bytes, least) in [(10, 20), (1_000_000, 120)] {
            let payload = vec![1; bytes];
            let started = Instant::now();
            let (x, y, ()) = together(
                a.exchange(Kind::Round, &payload, bytes, round(0)),
                b.exchange(Kind::Round, &payload, bytes, round(0)),
                async {},
            )
            .await;
            x.unwrap();
            y.unwrap();
            let took = started.elapsed();
            // Half a round trip and the airtime; above, only what a busy machine adds.
            assert!(
                took >= Duration::from_millis(least) && took < Duration::from_millis(least + 150),
                "{bytes} bytes took {took:?}"
            );
        }
    });
}

#[test]
fn a_measured_link_is_no_faster_and_no_shorter_than_its_shape() {
    let shape = LinkShape { rtt_ms: 20.0, mbit: Some(160.0) };
    let net = Net::new().unwrap();
    net.block_on(async {
        let (mut a, mut b) = shaped(shape).await;
        let (p0, p1, ()) = together(super::probe(&mut a, true), super::probe(&mut b, false), async {}).await;
        for measured in [p0.unwrap(), p1.unwrap()] {
            // A busy machine only adds; the last write of a burst may leave a little early.
            assert!(measured.rtt_ms >= 20.0 && measured.mbit <= 165.0 && measured.mbit > 0.0, "{measured:?}");
        }
        let nothing = *blake3::Hasher::new().finalize().as_bytes();
        assert_eq!(a.transcripts(), (nothing, nothing), "what is measured enters no transcript");
    });
}
