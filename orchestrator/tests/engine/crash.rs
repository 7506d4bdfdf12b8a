//! Crashes of the orchestrator itself, at every write of its journal.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sprint_artifacts::files::{DurableFile, Files, OsFiles};
use sprint_orchestrator::ExitCode;

use crate::world::World;

/// The file layer, whose journal takes only so many writes: the next one is torn in half and everything after it refused, which is
/// what a process killed at that moment leaves.
#[derive(Debug)]
struct Dying {
    inner: OsFiles,
    left: Arc<AtomicUsize>,
}

struct DyingFile {
    inner: Box<dyn DurableFile>,
    left: Arc<AtomicUsize>,
}

impl io::Write for DyingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let alive = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if alive {
            self.inner.write_all(bytes)?;
            return Ok(bytes.len());
        }
        let _ = self.inner.write_all(&bytes[..bytes.len() / 2]);
        Err(io::Error::other("killed"))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl DurableFile for DyingFile {
    fn sync(&mut self) -> io::Result<()> {
        self.inner.sync()
    }
}

fn is_journal(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n == "journal.log")
}

impl Files for Dying {
    fn create_new(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DurableFile>> {
        let inner = self.inner.create_new(path, mode)?;
        if is_journal(path) { Ok(Box::new(DyingFile { inner, left: self.left.clone() })) } else { Ok(inner) }
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn DurableFile>> {
        let inner = self.inner.open_append(path)?;
        if is_journal(path) { Ok(Box::new(DyingFile { inner, left: self.left.clone() })) } else { Ok(inner) }
    }

    fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        self.inner.truncate(path, length)
    }

    fn rename_no_replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename_no_replace(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.inner.create_dir(path, mode)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_dir(path)
    }
}

const WORKFLOW: &str = "sprint-flow: 1
limits: {cpu: 1}
stages:
  load: {kind: source@1, params: {text: m}}
  count: {kind: steps@1, params: {n: 3}, needs: [load]}
  hosts: {kind: lease@1}
  shares: {kind: share@1, inputs: {in: load.out}, needs: [hosts]}
  infer: {kind: copy@1, inputs: {in: shares.out, extra: hosts.out}}
  all: {kind: join@1, inputs: {rows: count.out}}
";

#[test]
fn a_crash_at_any_journal_write_is_continued_by_the_same_command() {
    let clean = World::new(WORKFLOW).run().report.finished.outputs["all.out"].digest;
    let mut crashes = 0;
    for budget in 0.. {
        assert!(budget < 60, "the journal has an end");
        let mut world = World::new(WORKFLOW);
        let left = Arc::new(AtomicUsize::new(budget));
        world.store_options = world.store_options.clone().files(Arc::new(Dying { inner: OsFiles, left }));
        let died = world.try_run().is_err();
        world.store_options = sprint_artifacts::StoreOptions::read_write();
        let committed: Vec<String> =
            sprint_orchestrator::artifacts(&world.store()).unwrap().into_iter().map(|r| r.stage).collect();
        world.ran();
        let again = world.run();
        assert_eq!(again.report.exit, ExitCode::Done, "after {budget} writes");
        assert_eq!(again.report.finished.outputs["all.out"].digest, clean);
        let ran = world.ran();
        for (stage, kind) in [("load", "source[]"), ("count", "steps[]"), ("infer", "copy[]"), ("all", "join[]")] {
            let twice = committed.iter().any(|c| c == stage) && ran.iter().any(|r| r == kind);
            assert!(!twice, "{stage} was committed and ran again, after {budget} writes");
        }
        assert!(!world.path("lease").exists(), "the lease was given back, after {budget} writes");
        if !died {
            break;
        }
        crashes += 1;
    }
    eprintln!("{crashes} crash points");
    assert!(crashes > 10);
}

#[test]
fn the_next_run_of_another_workflow_gives_back_what_a_crashed_one_held() {
    let mut world = World::new(WORKFLOW);
    for budget in 0..60 {
        world.store_options = sprint_artifacts::StoreOptions::read_write()
            .files(Arc::new(Dying { inner: OsFiles, left: Arc::new(AtomicUsize::new(budget)) }));
        let _ = world.try_run();
        if world.path("lease").exists() {
            break;
        }
    }
    assert!(world.path("lease").exists(), "some crash leaves the lease held");
    world.store_options = sprint_artifacts::StoreOptions::read_write();
    world.rewrite("sprint-flow: 1\nstages: {a: {kind: source@1, params: {text: other}}}\n");
    assert_eq!(world.run().report.exit, ExitCode::Done);
    assert!(!world.path("lease").exists());
}
