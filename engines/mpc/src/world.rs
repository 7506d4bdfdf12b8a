//! All four roles as threads of a test, over memory links, with a saboteur between the parties.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use sprint_mpc_core::PartyId;

use crate::client::Client;
use crate::error::{Field, RoleError};
use crate::hello::{Binding, shake};
use crate::ledger::Ledger;
use crate::material::StockLimits;
use crate::net::fault::{Fault, faulty, memory};
use crate::net::{Class, Counters, Link, Net, NetError, plain_link};
use crate::party::{Material, Party, PartyLinks, PartyOptions, PartySetup};
use crate::request::SharedInput;
use crate::toy::Toy;
use crate::{BatchId, Digest, Role, SessionId, dealer};

const STALL: Duration = Duration::from_millis(400);
const BINDING: Binding = Binding {
    session: SessionId::new([1; 32]),
    model: Digest::new([2; 32]),
    program: Digest::new([3; 32]),
    batch: BatchId::new([4; 32]),
};

/// How each role ended, and which indexes each party answered with.
struct Ends {
    parties: [Result<(), RoleError>; 2],
    indexes: [Vec<u64>; 2],
    dealer: Result<Vec<f64>, RoleError>,
    answers: Result<Vec<Vec<u64>>, RoleError>,
}

fn pair(net: &Net, a: Role, b: Role, fault: Fault) -> [Link; 2] {
    let [x, y] = net.block_on(async { if fault == Fault::None { memory() } else { faulty(fault) } });
    let link = |me, peer, stream| plain_link(me, peer, "memory".into(), STALL, stream, Arc::new(Counters::default()));
    [link(a, b, x), link(b, a, y)]
}

/// Requests with a fault on the frames from party 0 to party 1, over ledgers that begin at `watermarks`.
fn run(fault: Fault, watermarks: [u64; 2], requests: u64) -> Ends {
    let dir = tempfile::tempdir().unwrap();
    for (party, watermark) in watermarks.into_iter().enumerate().filter(|(_, w)| *w > 0) {
        ledger(dir.path(), party).burn(BINDING.batch, 0..watermark).unwrap();
    }
    run_at(dir.path(), fault, requests)
}

fn ledger(dir: &Path, party: usize) -> Ledger {
    Ledger::open(&dir.join(format!("ledger-{party}"))).unwrap()
}

/// The same over the ledgers in `dir`.
fn run_at(dir: &Path, fault: Fault, requests: u64) -> Ends {
    let toy = Toy { words: 20, rounds: 3, ..Toy::default() };
    let net = Arc::new(Net::new().unwrap());
    let [peer0, peer1] = pair(&net, Role::Party0, Role::Party1, fault);
    let [client0, to0] = pair(&net, Role::Party0, Role::Client, Fault::None);
    let [client1, to1] = pair(&net, Role::Party1, Role::Client, Fault::None);
    let [dealer0, from0] = pair(&net, Role::Party0, Role::Dealer, Fault::None);
    let [dealer1, from1] = pair(&net, Role::Party1, Role::Dealer, Fault::None);
    let party = |me: PartyId, links: PartyLinks| {
        let (net, dir) = (net.clone(), dir.to_owned());
        thread::spawn(move || {
            let ledger = ledger(&dir, me.index());
            let options = PartyOptions {
                stall: STALL,
                stock: StockLimits { memory: 1 << 10, disk: 1 << 20 },
                spool: dir,
                plan: vec![0],
                standing: None,
                lookahead: 2,
                offline_limit: STALL,
            };
            let setup = PartySetup { net, me, binding: BINDING, workload: toy.workload(), options, ledger };
            let mut indexes = Vec::new();
            let served = Party::open(setup, links).and_then(|mut party| party.serve(&mut |meter| indexes.push(meter.index)));
            (served, indexes)
        })
    };
    let parties = [
        party(PartyId::P0, PartyLinks { peer: peer0, material: Material::Dealer(Box::new(dealer0)), client: client0 }),
        party(PartyId::P1, PartyLinks { peer: peer1, material: Material::Dealer(Box::new(dealer1)), client: client1 }),
    ];
    let there = net.clone();
    let dealer = thread::spawn(move || dealer::serve(&there, BINDING.session, &*toy.workload(), [from0, from1]));
    let mut client = Client::new(net.clone(), vec![to0, to1], toy.workload().shapes().to_vec(), Duration::from_secs(5));
    let answers = (0..requests).map(|i| client.infer(0, SharedInput::of_words(&[i + 2; 20], b"mask").unwrap())).collect();
    let _ = client.finish();
    let [(end0, indexes0), (end1, indexes1)] = parties.map(|p| p.join().unwrap());
    Ends { parties: [end0, end1], indexes: [indexes0, indexes1], dealer: dealer.join().unwrap(), answers }
}

/// Frames from party 0 to party 1: 0 is the watermark, 1 the opening; then each request has a begin, three rounds and a transcript.
const OPENING: u64 = 1;
const BEGIN: u64 = 2;
const ROUNDS: u64 = 3;
const TRANSCRIPT: u64 = 6;

#[test]
fn two_requests_over_sound_links_are_answered() {
    let ends = run(Fault::None, [0, 0], 2);
    assert_eq!(ends.answers.unwrap(), [vec![256; 20], vec![6561; 20]]);
    assert_eq!(ends.dealer.unwrap().len(), 2);
    assert!(ends.parties.iter().all(Result::is_ok), "{:?}", ends.parties);
}

#[test]
fn a_changed_bit_in_an_opening_withholds_both_outputs() {
    for number in [OPENING, ROUNDS, ROUNDS + 1, ROUNDS + 2] {
        let ends = run(Fault::FlipPayload(number), [0, 0], 1);
        let [p0, p1] = ends.parties.map(|p| p.unwrap_err());
        assert!(matches!(p0, RoleError::Transcript { inference: 0, direction: "what this party sent" }), "{p0}");
        assert!(matches!(p1, RoleError::Transcript { inference: 0, direction: "what this party received" }), "{p1}");
        assert!(matches!(ends.answers, Err(RoleError::Net(NetError::Aborted { class: Class::Transcript, .. }))));
    }
}

#[test]
fn any_lost_repeated_moved_or_foreign_frame_ends_the_inference_without_an_output() {
    for number in [OPENING, BEGIN, ROUNDS, ROUNDS + 2, TRANSCRIPT] {
        for fault in [
            Fault::Drop(number),
            Fault::Duplicate(number),
            Fault::Swap(number),
            Fault::Shorten(number),
            Fault::CutOff(number),
            Fault::FlipHeader(number),
            Fault::Foreign(number),
            Fault::Hold(number),
        ] {
            // A frame that comes twice, or changes places with the next, may be the last of the first request.
            let ends = run(fault, [0, 0], 2);
            assert!(ends.answers.is_err(), "{fault:?}");
            let [p0, p1] = ends.parties;
            // Party 0 has done its part once it has party 1's transcript, which may have left before the frame that was sent twice
            // is noticed; a single output share tells the client nothing.
            let done = number == TRANSCRIPT || matches!(fault, Fault::Duplicate(_));
            assert!(p1.is_err() && (p0.is_err() || done), "{fault:?}: {p0:?} {p1:?}");
        }
    }
}

#[test]
fn a_held_round_is_a_stall_that_names_it() {
    let ends = run(Fault::Hold(ROUNDS + 1), [0, 0], 1);
    let [_, p1] = ends.parties.map(|p| p.unwrap_err().to_string());
    assert_eq!(p1, "party 1 waits for round 1 of inference 0 from party 0 at memory: nothing came for 400ms");
    assert!(ends.answers.is_err());
}

/// The link dies within every frame of an inference in turn; then a new session begins over the same ledgers.
#[test]
fn an_inference_cut_off_within_any_frame_leaves_its_index_to_nobody() {
    for number in 0..=TRANSCRIPT {
        let dir = tempfile::tempdir().unwrap();
        let cut = run_at(dir.path(), Fault::CutOff(number), 1);
        assert!(cut.answers.is_err() && cut.parties[1].is_err(), "frame {number}");
        let burnt = [0, 1].map(|party| ledger(dir.path(), party).watermark(BINDING.batch));
        // The first two frames say nothing of an inference's material: party 1 has not begun without them.
        assert!(burnt == [1, 1] || number < BEGIN && burnt[1] == 0, "frame {number}: {burnt:?}");
        let next = burnt[0].max(burnt[1]);
        let again = run_at(dir.path(), Fault::None, 2);
        assert_eq!(again.answers.unwrap(), [vec![256; 20], vec![6561; 20]]);
        assert_eq!(again.indexes, [[next, next + 1], [next, next + 1]], "frame {number}");
    }
}

#[test]
fn both_parties_start_at_the_larger_watermark() {
    for watermarks in [[3, 0], [0, 3], [2, 3]] {
        assert_eq!(run(Fault::None, watermarks, 1).answers.unwrap(), [vec![256; 20]]);
    }
}

#[test]
fn each_field_of_the_handshake_is_compared_and_named() {
    let net = Net::new().unwrap();
    let other = [9; 32];
    for (odd, field) in [
        (Binding { session: SessionId::new(other), ..BINDING }, Field::Session),
        (Binding { model: Digest::new(other), ..BINDING }, Field::Model),
        (Binding { program: Digest::new(other), ..BINDING }, Field::Program),
        (Binding { batch: BatchId::new(other), ..BINDING }, Field::Batch),
    ] {
        let [mut a, mut b] = pair(&net, Role::Party0, Role::Dealer, Fault::None);
        let (x, y, ()) = net.block_on(crate::net::together(
            shake(&mut a, Role::Party0, &BINDING),
            shake(&mut b, Role::Dealer, &odd),
            async {},
        ));
        for end in [x, y] {
            assert!(matches!(end, Err(RoleError::Handshake { field: named, .. }) if named == field), "{field}");
        }
    }
    let [mut a, mut b] = pair(&net, Role::Party0, Role::Dealer, Fault::None);
    let shaken = crate::net::together(shake(&mut a, Role::Party0, &BINDING), shake(&mut b, Role::Client, &BINDING), async {});
    let (x, _, ()) = net.block_on(shaken);
    assert!(matches!(x, Err(RoleError::Handshake { field: Field::Role, .. })));
}
