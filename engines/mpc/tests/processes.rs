//! Three real processes over TLS on loopback. This program is its own role binary, hence the hand-made harness.

mod gates;
#[expect(unreachable_pub, reason = "also a module of the library's own tests")]
mod toy;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use sprint_mpc::{
    BatchId, ClientSide, FleetError, FleetOptions, Ledger, Limits, LinkShape, LocalFleet, Role, SharedInput, gate_role_main,
    precompute, role_main,
};
use toy::Toy;

const TESTS: &[(&str, fn())] = &[
    ("a_fleet_answers_several_requests_and_accounts_for_them", a_fleet_answers_several_requests_and_accounts_for_them),
    ("a_role_killed_mid_inference_is_named_at_once", a_role_killed_mid_inference_is_named_at_once),
    ("a_role_killed_before_the_first_request_is_named_at_once", a_role_killed_before_the_first_request_is_named_at_once),
    ("a_different_model_or_program_is_refused_by_name", a_different_model_or_program_is_refused_by_name),
    ("a_stopped_party_ends_in_a_timeout_that_names_the_wait", a_stopped_party_ends_in_a_timeout_that_names_the_wait),
    ("costs_other_than_declared_withhold_the_output", costs_other_than_declared_withhold_the_output),
    ("an_unfit_request_leaves_the_session_alive", an_unfit_request_leaves_the_session_alive),
    ("roles_die_with_their_spawner", roles_die_with_their_spawner),
    ("a_role_without_configuration_fails_and_says_so", a_role_without_configuration_fails_and_says_so),
    ("a_shaped_fleet_takes_its_round_trips", a_shaped_fleet_takes_its_round_trips),
    (
        "a_party_killed_before_any_opening_leaves_its_index_to_nobody",
        a_party_killed_before_any_opening_leaves_its_index_to_nobody,
    ),
    ("material_made_ahead_is_used_once_and_deleted", material_made_ahead_is_used_once_and_deleted),
    ("material_made_ahead_for_something_else_is_refused", material_made_ahead_for_something_else_is_refused),
    ("no_index_is_used_twice_through_two_hundred_kills", no_index_is_used_twice_through_two_hundred_kills),
    ("a_real_model_answers_batches_of_two_sizes", gates::a_real_model_answers_batches_of_two_sizes),
    ("a_real_model_answers_from_material_made_ahead", gates::a_real_model_answers_from_material_made_ahead),
    (
        "a_standing_order_serves_any_number_and_ends_in_good_order",
        gates::a_standing_order_serves_any_number_and_ends_in_good_order,
    ),
    (
        "a_model_whose_weights_are_all_private_answers_as_declared",
        gates::a_model_whose_weights_are_all_private_answers_as_declared,
    ),
    ("three_servers_answer_without_a_dealer", gates::three::three_servers_answer_without_a_dealer),
    ("three_servers_refuse_what_is_not_for_them", gates::three::three_servers_refuse_what_is_not_for_them),
    ("a_third_server_that_dies_is_named", gates::three::a_third_server_that_dies_is_named),
    ("the_benchmark_of_three_servers_reports_all_of_them", gates::three::the_benchmark_of_three_servers_reports_all_of_them),
    ("shares_of_two_sharings_do_not_pass_for_a_pair", gates::shares_of_two_sharings_do_not_pass_for_a_pair),
    ("shares_do_not_serve_the_gates_of_another_mode", gates::shares_do_not_serve_the_gates_of_another_mode),
    ("the_benchmark_reports_what_its_session_measured", gates::the_benchmark_reports_what_its_session_measured),
    (
        "a_restart_with_a_rolled_back_ledger_skips_to_the_peers_watermark",
        a_restart_with_a_rolled_back_ledger_skips_to_the_peers_watermark,
    ),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["mpc-role", role] => {
            let role = Role::from_name(role).expect("the fleet names a role");
            return role_main(role, std::io::stdin(), std::io::stdout(), Toy::factory);
        }
        ["gate-role", role] => {
            let role = Role::from_name(role).expect("the fleet names a role");
            return gate_role_main(role, std::io::stdin(), std::io::stdout());
        }
        ["burner", ledger, log] => return burner(Path::new(ledger), Path::new(log)),
        ["spawner", dir] => return spawner(Path::new(dir)),
        _ => {}
    }
    let names =
        || TESTS.iter().filter(|(name, _)| args.iter().filter(|a| !a.starts_with('-')).all(|a| name.contains(a.as_str())));
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
        material: None,
        three: false,
        ledgers: dir.to_owned(),
        link: LinkShape::LOOPBACK,
        dealer_link: LinkShape::LOOPBACK,
        limits: limits(),
        plan: Vec::new(),
        standing: None,
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
    let mut fleet =
        LocalFleet::launch(&FleetOptions { plan: vec![0, 1, 0], ..options(dir.path(), [toy; 3]) }, side(toy)).unwrap();
    for (request, program) in [0, 1, 0, 1].into_iter().enumerate() {
        let x = input(1000 << program, request as u64);
        if request % 2 == 1 {
            fleet.prepare(program).unwrap();
        }
        assert_eq!(fleet.infer(program, SharedInput::of_words(&x, b"mask").unwrap()).unwrap(), toy.expect(&x));
    }
    let meter = fleet.finish().unwrap();
    for party in &meter.parties {
        let indexes: Vec<u64> = party.inferences.iter().map(|m| m.index).collect();
        assert_eq!(indexes, [0, 1, 2, 3]);
        assert!(party.inferences.iter().all(|m| m.rounds == 5 && m.opened_bytes_sent == (5 * 8000) << m.program));
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

const SLOW: Toy = Toy { words: 10, rounds: 200, model: 1, phantom_rounds: 0, pause_ms: 10, dies_at: None };

fn ask(fleet: &mut LocalFleet, toy: Toy) -> Result<Vec<u64>, FleetError> {
    fleet.infer(0, SharedInput::of_words(&input(toy.words, 1), b"mask").unwrap())
}

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

fn alive(pid: u32) -> bool {
    // A zombie has ended; only its parent has not asked yet.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn a_role_killed_mid_inference_is_named_at_once() {
    for (i, role) in [Role::Party0, Role::Party1, Role::Dealer].into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let mut fleet = LocalFleet::launch(&options(dir.path(), [SLOW; 3]), side(SLOW)).unwrap();
        let pids = fleet.pids();
        let victim = pids[i];
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            signal(victim, "KILL");
            Instant::now()
        });
        let outcome = ask(&mut fleet, SLOW);
        let took = killer.join().unwrap().elapsed();
        match outcome {
            Err(FleetError::Died { role: died, status }) => {
                assert_eq!(died, role);
                assert!(status.unwrap().to_string().contains("signal: 9"), "{status:?}");
            }
            // All of the dealer's material may have been sent by then: the inference does not need it any more.
            Ok(answer) if role == Role::Dealer => assert_eq!(answer, SLOW.expect(&input(SLOW.words, 1))),
            other => panic!("{role}: {other:?}"),
        }
        assert!(took < Duration::from_secs(3) || role == Role::Dealer, "{role}: {took:?}");
        drop(fleet);
        assert!(pids.iter().all(|pid| !alive(*pid)), "a process was left behind");
    }
}

fn a_role_killed_before_the_first_request_is_named_at_once() {
    for (i, role) in [Role::Party0, Role::Party1, Role::Dealer].into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let toy = Toy::default();
        let mut fleet = LocalFleet::launch(&options(dir.path(), [toy; 3]), side(toy)).unwrap();
        signal(fleet.pids()[i], "KILL");
        match ask(&mut fleet, toy) {
            Err(FleetError::Died { role: died, .. }) => assert_eq!(died, role),
            other => panic!("{role}: {other:?}"),
        }
        assert!(ask(&mut fleet, toy).unwrap_err().to_string().contains("the session is over"));
    }
}

fn a_different_model_or_program_is_refused_by_name() {
    let toy = Toy::default();
    for (odd, field) in [(Toy { model: 2, ..toy }, "model digest"), (Toy { rounds: 6, ..toy }, "program digest")] {
        for at in 0..3 {
            let dir = tempfile::tempdir().unwrap();
            let mut toys = [toy; 3];
            toys[at] = odd;
            let launched = LocalFleet::launch(&options(dir.path(), toys), side(toy));
            let error = launched.and_then(|mut fleet| ask(&mut fleet, toy)).unwrap_err().to_string();
            assert!(error.contains(&format!("disagree on the {field}")), "role {at}: {error}");
        }
    }
}

fn a_stopped_party_ends_in_a_timeout_that_names_the_wait() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { stall_s: 1.0, ..limits() };
    let mut fleet = LocalFleet::launch(&FleetOptions { limits, ..options(dir.path(), [SLOW; 3]) }, side(SLOW)).unwrap();
    let pid = fleet.pids()[1];
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(400));
        signal(pid, "STOP");
    });
    let error = ask(&mut fleet, SLOW).unwrap_err().to_string();
    stopper.join().unwrap();
    assert!(
        error.contains("party 0 waits for round ") && error.contains(" of inference 0 from party 1 at 127.0.0.1:"),
        "{error}"
    );
    assert!(error.contains("nothing came for 1s"), "{error}");
}

fn costs_other_than_declared_withhold_the_output() {
    let dir = tempfile::tempdir().unwrap();
    let toy = Toy { phantom_rounds: 1, ..Toy::default() };
    let mut fleet = LocalFleet::launch(&options(dir.path(), [toy; 3]), side(toy)).unwrap();
    let error = ask(&mut fleet, toy).unwrap_err().to_string();
    assert!(error.contains("the program declares 6 rounds, 5 were measured"), "{error}");
}

fn an_unfit_request_leaves_the_session_alive() {
    let dir = tempfile::tempdir().unwrap();
    let toy = Toy::default();
    let mut fleet = LocalFleet::launch(&options(dir.path(), [toy; 3]), side(toy)).unwrap();
    for (program, words, public) in [(0, 99, "mask"), (1, 100, "mask"), (0, 100, "masks"), (7, 100, "mask")] {
        let shared = SharedInput::of_words(&input(words, 1), public.as_bytes()).unwrap();
        assert!(fleet.infer(program, shared).unwrap_err().to_string().contains("request 0"));
    }
    assert_eq!(ask(&mut fleet, toy).unwrap(), toy.expect(&input(100, 1)));
    fleet.finish().unwrap();
}

/// A process that launches a fleet, prints its process ids, and then waits to be killed.
fn spawner(dir: &Path) -> ExitCode {
    let fleet = LocalFleet::launch(&options(dir, [SLOW; 3]), side(SLOW)).unwrap();
    println!("{:?}", fleet.pids());
    std::thread::sleep(Duration::from_secs(60));
    ExitCode::SUCCESS
}

fn roles_die_with_their_spawner() {
    use std::io::{BufRead, BufReader};
    let dir = tempfile::tempdir().unwrap();
    let mut child =
        Command::new(std::env::current_exe().unwrap()).arg("spawner").arg(dir.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pids: Vec<u32> = serde_json::from_str(&line).unwrap();
    assert!(pids.iter().all(|pid| alive(*pid)));
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = Instant::now();
    while pids.iter().any(|pid| alive(*pid)) {
        assert!(killed.elapsed() < Duration::from_secs(120), "{pids:?} outlive their spawner");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn a_role_without_configuration_fails_and_says_so() {
    use std::io::Write;
    for (line, why) in [("", "column 0"), ("{\"settings\":{}}\n", "not a role configuration"), ("x\n", "column 1")] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["mpc-role", "dealer"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(!output.status.success() && said.contains(why), "{line:?}: {said}");
    }
}

fn a_shaped_fleet_takes_its_round_trips() {
    let dir = tempfile::tempdir().unwrap();
    let toy = Toy { words: 10, rounds: 20, ..Toy::default() };
    let shape = LinkShape { rtt_ms: 20.0, mbit: Some(100.0) };
    let mut fleet = LocalFleet::launch(&FleetOptions { link: shape, ..options(dir.path(), [toy; 3]) }, side(toy)).unwrap();
    fleet.prepare(0).unwrap();
    let started = Instant::now();
    assert_eq!(ask(&mut fleet, toy).unwrap(), toy.expect(&input(10, 1)));
    let took = started.elapsed();
    // Half a round trip for the request, 20 rounds, begin and transcript, and the answer: at least so long, however fast the machine.
    assert!(took >= Duration::from_millis(24 * 10), "{took:?}");
    fleet.finish().unwrap();
}

/// Burns one index after the other and says so, until it is killed.
fn burner(ledger: &Path, log: &Path) -> ExitCode {
    use std::io::Write;
    let mut ledger = Ledger::open(ledger).unwrap();
    let mut log = std::fs::OpenOptions::new().append(true).create(true).open(log).unwrap();
    let batch = BatchId::new([7; 32]);
    loop {
        let index = ledger.watermark(batch);
        ledger.burn(batch, index..index + 1).unwrap();
        // This stands for the first byte that depends on the index.
        log.write_all(&index.to_le_bytes()).unwrap();
    }
}

fn no_index_is_used_twice_through_two_hundred_kills() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, log) = (dir.path().join("ledger"), dir.path().join("log"));
    for round in 0..200_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("burner")
            .args([&ledger, &log])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Only once it burns, or a busy machine kills processes that have not begun.
        let begun = std::fs::metadata(&log).map_or(0, |m| m.len());
        let patience = Instant::now() + Duration::from_secs(20);
        while std::fs::metadata(&log).map_or(0, |m| m.len()) == begun && Instant::now() < patience {
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_micros(round * 7919 % 3000));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let used: Vec<u64> =
        std::fs::read(&log).unwrap().chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect();
    assert!(used.len() >= 200, "only {} indexes in 200 runs", used.len());
    assert!(used.windows(2).all(|w| w[0] < w[1]), "an index was used twice: {used:?}");
}

fn a_party_killed_before_any_opening_leaves_its_index_to_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let toy = Toy { words: 10, rounds: 4, ..Toy::default() };
    let sound = options(dir.path(), [toy; 3]);
    let mut next = 0;
    for (round, victim) in (0..toy.rounds).flat_map(|round| [(round, 0), (round, 1)]) {
        let mut toys = [toy; 3];
        toys[victim] = Toy { dies_at: Some(round), ..toy };
        let dying = FleetOptions { batch: sound.batch, ..options(dir.path(), toys) };
        let error = ask(&mut LocalFleet::launch(&dying, side(toy)).unwrap(), toy).unwrap_err();
        assert!(matches!(error, FleetError::Died { role, .. } if role.party().unwrap().index() == victim), "{error}");
        let mut fleet = LocalFleet::launch(&sound, side(toy)).unwrap();
        assert_eq!(ask(&mut fleet, toy).unwrap(), toy.expect(&input(toy.words, 1)));
        let used = fleet.finish().unwrap().parties.map(|p| p.inferences[0].index);
        assert_eq!(used, [next + 1; 2], "killed at party {victim}, round {round}");
        next += 2;
    }
}

/// Four inferences' material in `dir/material`, and a fleet's options that use it.
fn made_ahead(dir: &Path, toy: Toy) -> FleetOptions {
    let folder = dir.join("material");
    let made = precompute(&folder, &*toy.workload(), &[0, 0, 1, 0]).unwrap();
    assert_eq!(made.batch.bytes, [5 * 16 * 100 * 5; 2]);
    FleetOptions { batch: made.batch.batch, material: Some(folder), ..options(dir, [toy; 3]) }
}

fn left(dir: &Path) -> [usize; 2] {
    [0, 1].map(|party| {
        let files = std::fs::read_dir(dir.join(format!("material/party-{party}"))).unwrap();
        files.filter(|f| f.as_ref().unwrap().path().extension().is_some_and(|e| e == "material")).count()
    })
}

fn material_made_ahead_is_used_once_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let toy = Toy::default();
    let options = made_ahead(dir.path(), toy);
    let spare = std::fs::read(dir.path().join("material/party-0/00000000.material")).unwrap();
    let mut fleet = LocalFleet::launch(&FleetOptions { plan: vec![0, 0], ..options.clone() }, side(toy)).unwrap();
    assert_eq!(fleet.pids().len(), 2, "there is no dealer");
    fleet.prepare(0).unwrap();
    assert_eq!(left(dir.path()), [4, 4], "material at hand is not yet used");
    assert_eq!(ask(&mut fleet, toy).unwrap(), toy.expect(&input(100, 1)));
    assert_eq!(left(dir.path()), [3, 3]);
    assert_eq!(fleet.finish().unwrap().dealer.offline_s, [0.0; 0]);

    // A file that a crash, or somebody, has left behind lies below the watermark.
    std::fs::write(dir.path().join("material/party-0/00000000.material"), spare).unwrap();
    let mut fleet = LocalFleet::launch(&options, side(toy)).unwrap();
    assert_eq!(ask(&mut fleet, toy).unwrap(), toy.expect(&input(100, 1)));
    let meter = fleet.finish().unwrap();
    assert_eq!(meter.parties.each_ref().map(|p| p.inferences[0].index), [1, 1]);
    assert_eq!(left(dir.path()), [2, 2]);

    // Index 2 is another program's: it is not given to this one, nor lost by the attempt.
    let mut fleet = LocalFleet::launch(&options, side(toy)).unwrap();
    let error = ask(&mut fleet, toy).unwrap_err().to_string();
    assert!(error.contains("for another program"), "{error}");
    drop(fleet);
    let mut fleet = LocalFleet::launch(&options, side(toy)).unwrap();
    let x = input(200, 2);
    assert_eq!(fleet.infer(1, SharedInput::of_words(&x, b"mask").unwrap()).unwrap(), toy.expect(&x));
    assert_eq!(ask(&mut fleet, toy).unwrap(), toy.expect(&input(100, 1)));
    assert_eq!(left(dir.path()), [0, 0]);
    let error = ask(&mut fleet, toy).unwrap_err().to_string();
    assert!(error.contains("dealer material of inference 4") && error.contains("none, or it has been used"), "{error}");
}

fn material_made_ahead_for_something_else_is_refused() {
    let toy = Toy::default();
    let other = Toy { model: 2, ..toy };
    let (mine, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let options = made_ahead(mine.path(), toy);
    let made_for_other = made_ahead(theirs.path(), other);
    let refused = |options: &FleetOptions, toy: Toy| {
        ask(&mut LocalFleet::launch(options, side(toy)).unwrap(), toy).unwrap_err().to_string()
    };
    // The right batch id over another model's files, then another batch's files under this one's id.
    let error = refused(&FleetOptions { workload: options.workload.clone(), ..made_for_other.clone() }, toy);
    assert!(error.contains("for another model"), "{error}");
    let error = refused(&FleetOptions { batch: made_for_other.batch, ..options.clone() }, toy);
    assert!(error.contains("of another batch"), "{error}");
    let path = mine.path().join("material/party-1/00000000.material");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = refused(&options, toy);
    assert!(error.contains("party 1 failed") && error.contains("it was changed"), "{error}");
}

fn a_restart_with_a_rolled_back_ledger_skips_to_the_peers_watermark() {
    let dir = tempfile::tempdir().unwrap();
    let toy = Toy::default();
    let options = options(dir.path(), [toy; 3]);
    let run = || {
        let mut fleet = LocalFleet::launch(&options, side(toy)).unwrap();
        ask(&mut fleet, toy).unwrap();
        ask(&mut fleet, toy).unwrap();
        fleet.finish().unwrap().parties.map(|p| p.inferences.iter().map(|m| m.index).collect::<Vec<_>>())
    };
    let old = dir.path().join("party-1.ledger");
    assert_eq!(run(), [[0, 1], [0, 1]]);
    let image = std::fs::read(&old).unwrap();
    assert_eq!(run(), [[2, 3], [2, 3]]);
    std::fs::write(&old, image).unwrap();
    assert_eq!(run(), [[4, 5], [4, 5]]);
}
