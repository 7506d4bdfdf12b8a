//! Runs that share results through a remote, here a folder.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sprint_artifacts::Remote;
use sprint_artifacts::remote::{Body, Creation, ObjectError, Objects, RemoteSpec, SealError, Sealer};
use sprint_orchestrator::{ExitCode, Interrupt, RunEvent, RunRemote};

use crate::local::executor;
use crate::world::World;

/// Objects as files of a folder; a file `away` in it makes the service unreachable.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn path(&self, operation: &'static str, name: &str) -> Result<PathBuf, ObjectError> {
        if self.0.join("away").exists() {
            return Err(ObjectError::Unavailable { operation, name: name.to_owned(), reason: "away".to_owned() });
        }
        Ok(self.0.join("objects").join(name.replace('/', "~")))
    }
}

impl Objects for Folder {
    fn create(&self, name: &str, body: Body<'_>) -> Result<Creation, ObjectError> {
        let path = self.path("create", name)?;
        let bytes = match body {
            Body::Bytes(bytes) => bytes.to_vec(),
            Body::File { path, .. } => fs::read(path).unwrap(),
        };
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match fs::File::create_new(&path) {
            Ok(mut file) => {
                file.write_all(&bytes).unwrap();
                Ok(Creation::New)
            }
            Err(_) => Ok(if fs::read(&path).unwrap() == bytes { Creation::Same } else { Creation::Other }),
        }
    }

    fn read(&self, name: &str, into: &mut dyn Write) -> Result<bool, ObjectError> {
        let Ok(bytes) = fs::read(self.path("read", name)?) else { return Ok(false) };
        into.write_all(&bytes).unwrap();
        Ok(true)
    }

    fn exists(&self, name: &str) -> Result<bool, ObjectError> {
        Ok(self.path("inspect", name)?.exists())
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, ObjectError> {
        self.path("list", prefix)?;
        let mut names: Vec<String> = fs::read_dir(self.0.join("objects"))
            .into_iter()
            .flatten()
            .map(|e| e.unwrap().file_name().into_string().unwrap().replace('~', "/"))
            .filter(|n| n.starts_with(prefix))
            .collect();
        names.sort();
        Ok(names)
    }

    fn remove(&self, name: &str) -> Result<(), ObjectError> {
        let _ = fs::remove_file(self.path("remove", name)?);
        Ok(())
    }
}

/// Marks what it seals.
#[derive(Debug)]
struct Marker;

impl Sealer for Marker {
    fn can_open(&self) -> bool {
        true
    }

    fn seal(&self, plain: &mut dyn Read, sealed: &mut dyn Write) -> Result<(), SealError> {
        sealed.write_all(b"sealed ")?;
        Ok(std::io::copy(plain, sealed).map(drop)?)
    }

    fn open(&self, sealed: &mut dyn Read, plain: &mut dyn Write) -> Result<(), SealError> {
        let mut mark = [0; 7];
        sealed.read_exact(&mut mark)?;
        Ok(std::io::copy(sealed, plain).map(drop)?)
    }
}

/// The folder that `endpoint` names.
pub(crate) fn connect(spec: &RemoteSpec) -> Result<Remote, String> {
    let folder = spec.endpoint.clone().ok_or("no folder")?;
    let sealer = (!spec.recipients.is_empty()).then(|| Box::new(Marker) as Box<dyn Sealer>);
    Ok(Remote::new(Box::new(Folder(folder.into())), sealer))
}

/// A machine with a store of its own and this remote.
fn machine(workflow: &str, remote: &Path) -> World {
    let mut world = World::new(workflow);
    let mut spec = RemoteSpec::new("s3://bucket/prefix".parse().unwrap());
    spec.endpoint = Some(remote.to_string_lossy().into_owned());
    spec.recipients = vec!["age1".to_owned()];
    let remote = Arc::new(connect(&spec).unwrap());
    world.remote = Some(RunRemote { remote, spec: Arc::new(spec) });
    world
}

const CHAIN: &str = "sprint-flow: 1
stages:
  a: {kind: source, params: {text: one}}
  b: {kind: upper, inputs: {in: a.out}}
  c: {kind: copy, inputs: {in: b.out}}
";

#[test]
fn a_fresh_store_with_the_same_remote_runs_nothing() {
    let remote = tempfile::tempdir().unwrap();
    let (here, there) = (machine(CHAIN, remote.path()), machine(CHAIN, remote.path()));
    let ran = here.run();
    assert_eq!(ran.report.exit, ExitCode::Done);
    let pushed = ran.events.iter().filter(|e| matches!(e, RunEvent::StagePushed { .. })).count();
    assert_eq!((here.ran().len(), pushed), (3, 3));
    let ran = there.run();
    assert_eq!((ran.report.exit, ran.report.finished.stages.hit), (ExitCode::Done, 3));
    assert!(there.ran().is_empty());
    let outputs = |world: &World| world.run().report.finished.outputs["c.out"].digest;
    assert_eq!(outputs(&here), outputs(&there));
}

#[test]
fn a_remote_that_is_away_stops_what_could_be_there_and_loses_nothing_that_is_here() {
    let remote = tempfile::tempdir().unwrap();
    let world = machine(CHAIN, remote.path());
    let away = remote.path().join("away");
    fs::write(&away, "").unwrap();
    let ran = world.run();
    assert_eq!(ran.report.exit, ExitCode::RemoteUnavailable, "nothing is computed again that may be there");
    assert!(world.ran().is_empty());

    fs::remove_file(&away).unwrap();
    let executor = world.in_process();
    let leave = away.clone();
    let ran = world.run_on(executor, |event, _| {
        // It goes away while the last stage's result is being committed.
        if matches!(event, RunEvent::StageStarted { stage, .. } if stage.to_string() == "c") {
            fs::write(&leave, "").unwrap();
        }
    });
    let report = ran.unwrap().report;
    assert_eq!(report.exit, ExitCode::RemoteUnavailable);
    assert_eq!(report.unpushed.iter().map(|(stage, _)| stage.to_string()).collect::<Vec<_>>(), ["c"]);
    assert_eq!(world.ran().len(), 3);

    fs::remove_file(&away).unwrap();
    let ran = world.run();
    assert_eq!((ran.report.exit, world.ran().len()), (ExitCode::Done, 0), "the next run only brings it there");
    assert_eq!(ran.events.iter().filter(|e| matches!(e, RunEvent::StagePushed { .. })).count(), 1);
}

#[test]
fn shares_stay_and_what_they_are_made_from_goes() {
    let remote = tempfile::tempdir().unwrap();
    let workflow = "sprint-flow: 1
stages:
  a: {kind: source, params: {text: only for party 0}}
  s: {kind: share, inputs: {in: a.out}}
";
    assert_eq!(machine(workflow, remote.path()).run().report.exit, ExitCode::Done);
    let names = Folder(remote.path().to_owned()).list("").unwrap();
    assert_eq!(names.iter().filter(|n| n.starts_with("v1/results/")).count(), 1, "{names:?}");
}

#[test]
fn a_stage_whose_machine_is_lost_goes_on_elsewhere_from_its_last_checkpoint() {
    let remote = tempfile::tempdir().unwrap();
    let workflow = "sprint-flow: 1
stages:
  train: {kind: steps, params: {n: 30, ms: 40}}
";
    let here = machine(workflow, remote.path());
    let ran = here.run_on(executor(&here), |event, interrupt| {
        if matches!(event, RunEvent::StageProgress { done: 12.., .. }) {
            // Twice: at once.
            let _ = interrupt.send(Interrupt::Terminate);
            let _ = interrupt.send(Interrupt::Terminate);
        }
    });
    assert_eq!(ran.unwrap().report.exit, ExitCode::Terminated);
    let reached = here.lines("steps.log").len();
    let names = Folder(remote.path().to_owned()).list("v1/checkpoints/").unwrap();
    // Two are kept, and a third if the worker was killed between bringing it and removing the oldest.
    assert!((1..=3).contains(&names.len()), "{names:?}");
    drop(here);

    let there = machine(workflow, remote.path());
    let ran = there.run_on(executor(&there), |_, _| {}).unwrap();
    assert_eq!(ran.report.exit, ExitCode::Done);
    let steps = there.lines("steps.log").len();
    assert!(steps < 30 && steps + reached >= 30, "{reached} steps here, {steps} there");
    assert!(
        Folder(remote.path().to_owned()).list("v1/checkpoints/").unwrap().is_empty(),
        "the result is there; checkpoints are not needed"
    );
}

#[test]
fn a_plan_says_what_would_be_pulled_and_what_depends_on_it() {
    use sprint_orchestrator::{Plan, PlanState};
    let remote = tempfile::tempdir().unwrap();
    let here = machine(CHAIN, remote.path());
    here.run();
    let longer = format!("{CHAIN}  d: {{kind: upper, inputs: {{in: c.out}}}}\n");
    let there = machine(&longer, remote.path());
    let plan = |remote: Option<&Remote>| Plan::with_remote(&there.workflow(), None, remote, &[], "").unwrap();
    let states = |plan: &Plan| plan.stages.iter().map(|s| s.state).collect::<Vec<_>>();
    let spec = there.remote.clone().unwrap();
    let asked = plan(Some(&spec.remote));
    let pull = PlanState::HitRemote;
    assert_eq!(states(&asked), [pull, pull, pull, PlanState::Miss], "what is pulled makes the next key known");
    assert_eq!(serde_json::to_value(pull).unwrap(), "hit_remote");
    assert_eq!(states(&plan(None)), [PlanState::Miss, PlanState::Blocked, PlanState::Blocked, PlanState::Blocked]);
    assert!(!there.path("store").exists(), "nothing was pulled for a look");
    // A result one of whose files is gone from the remote is no result.
    let folder = Folder(remote.path().to_owned());
    for name in folder.list("v1/blobs/").unwrap() {
        folder.remove(&name).unwrap();
    }
    assert_eq!(states(&plan(Some(&spec.remote)))[0], PlanState::Miss);
}
