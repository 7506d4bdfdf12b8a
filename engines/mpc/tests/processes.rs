//! Three real processes over TLS on loopback. This program is its own role binary, hence the hand-made harness.

mod toy;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use sprint_mpc::{BatchId, ClientSide, FleetError, FleetOptions, Ledger, Limits, LinkShape, LocalFleet, Role, role_main};
use toy::Toy;

const TESTS: &[(&str, fn())] = &[
    ("a_fleet_answers_several_requests_and_accounts_for_them", a_fleet_answers_several_requests_and_accounts_for_them),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["mpc-role", role] => {
            let role = Role::from_name(role).expect("the fleet names a role");
            return role_main(role, std::io::stdin(), std::io::stdout(), Toy::factory);
        }
        _ => {}
    }
    let names = || TESTS.iter().filter(|(name, _)| args.iter().filter(|a| !a.starts_with('-')).all(|a| name.contains(a.as_str())));
    if args.iter().any(|a| a == "--list") {
        names().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let mut failed = 0;
    for (name, test) in names() {
        let started = Instant::now();
        let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!("test {name} ... {} ({:.2?})", if passed { "ok" } else { "FAILED" }, started.elapsed());
        failed += u32::from(!passed);
    }
    println!("{failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn limits() -> Limits {
    Limits { connect_s: 20.0, stall_s: 20.0, offline_s: 20.0, inference_s: 60.0, ..Limits::default() }
}

fn options(dir: &Path, toys: [Toy; 3]) -> FleetOptions {
    let roles = [Role::Party0, Role::Party1, Role::Dealer];
    FleetOptions {
        binary: std::env::current_exe().unwrap(),
        args: vec!["mpc-role".into()],
        workload: roles.into_iter().zip(toys).map(|(role, toy)| (role, serde_json::to_value(toy).unwrap())).collect(),
        batch: BatchId::random().unwrap(),
        ledgers: dir.to_owned(),
        link: LinkShape::LOOPBACK,
        dealer_link: LinkShape::LOOPBACK,
        limits: limits(),
        plan: Vec::new(),
    }
}

fn side(toy: Toy) -> ClientSide {
    let workload = toy.workload();
    ClientSide { model: workload.model(), program: workload.program(), shapes: workload.shapes().to_vec() }
}

fn input(words: usize, seed: u64) -> Vec<u64> {
    (0..words as u64).map(|i| (i + 1).wrapping_mul(seed | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect()
}

fn a_fleet_answers_several_requests_and_accounts_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let toy = Toy { words: 1000, ..Toy::default() };
    let mut fleet = LocalFleet::launch(&FleetOptions { plan: vec![0, 1, 0], ..options(dir.path(), [toy; 3]) }, side(toy)).unwrap();
    for (request, program) in [0, 1, 0, 1].into_iter().enumerate() {
        let x = input(1000 << program, request as u64);
        if request % 2 == 1 {
            fleet.prepare(program).unwrap();
        }
        assert_eq!(fleet.infer(program, &x, b"mask").unwrap(), toy.expect(&x));
    }
    let meter = fleet.finish().unwrap();
    for party in &meter.parties {
        let indexes: Vec<u64> = party.inferences.iter().map(|m| m.index).collect();
        assert_eq!(indexes, [0, 1, 2, 3]);
        assert!(party.inferences.iter().all(|m| m.rounds == 5 && m.opened_bytes_sent == 5 * 8000 << m.program));
        assert_eq!(party.by_gate[0].bytes_sent, 6 * 5 * 8000);
        assert_eq!(party.by_part.len(), 3);
        assert!(party.cpu_s > 0.0 && party.peak_rss.unwrap() > 1 << 20);
    }
    let (p0, p1) = (&meter.parties[0].links["party-1"], &meter.parties[1].links["party-0"]);
    assert_eq!((p0.payload_sent, p0.payload_received), (p1.payload_received, p1.payload_sent));
    assert!(p0.wire_sent > p0.payload_sent && p0.wire_sent < p0.payload_sent * 11 / 10);
    assert_eq!(meter.dealer.links["party-1"].payload_sent, meter.parties[1].links["dealer"].payload_received);
    assert_eq!(meter.dealer.offline_s.len(), 4);
}
