//! A ledger that is kept in two places: a charge counts once it is in both.

use std::io;
use std::sync::Arc;

use sprint_dp::ledger::LedgerSink;
use sprint_stage_api::LedgerMirror;

/// A sink whose lines also go to a mirror, file first: whatever the mirror holds, the file held.
pub(super) struct MirroredSink<S> {
    file: S,
    mirror: Arc<dyn LedgerMirror>,
    name: &'static str,
    /// The file's length, once it has been read.
    length: Option<u64>,
}

impl<S: LedgerSink> MirroredSink<S> {
    pub(super) fn new(file: S, mirror: Arc<dyn LedgerMirror>, name: &'static str) -> Self {
        Self { file, mirror, name, length: None }
    }
}

impl<S: LedgerSink> LedgerSink for MirroredSink<S> {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        self.file.read()
    }

    fn append_durably(&mut self, bytes: &[u8]) -> io::Result<()> {
        let offset = match self.length {
            Some(length) => length,
            None => self.file.read()?.len() as u64,
        };
        self.length = None;
        self.file.append_durably(bytes)?;
        self.length = Some(offset + bytes.len() as u64);
        self.mirror.appended(self.name, offset, bytes).map_err(io::Error::other)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        // Only a line that was never finished is cut off, and such a one never reached the mirror.
        self.length = None;
        self.file.truncate(length)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use sprint_dp::ledger::MemorySink;
    use sprint_stage_api::StageError;

    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<(u64, Vec<u8>)>>, bool);

    impl LedgerMirror for Heard {
        fn appended(&self, _: &str, offset: u64, line: &[u8]) -> Result<(), StageError> {
            self.0.lock().expect("no panic").push((offset, line.to_vec()));
            if self.1 { Err(StageError::transient("the remote is away")) } else { Ok(()) }
        }
    }

    #[test]
    fn every_line_reaches_the_mirror_with_its_offset() {
        let heard = Arc::new(Heard::default());
        let mut sink = MirroredSink::new(MemorySink::holding(b"open\ncha".to_vec()), heard.clone(), "l");
        sink.truncate(5).expect("cut");
        sink.append_durably(b"recovered\n").expect("appended");
        sink.append_durably(b"charge\n").expect("appended");
        assert_eq!(*heard.0.lock().expect("no panic"), [(5, b"recovered\n".to_vec()), (15, b"charge\n".to_vec())]);
        assert_eq!(sink.read().expect("read"), b"open\nrecovered\ncharge\n");
    }

    #[test]
    fn a_charge_that_the_mirror_did_not_take_is_no_charge_to_draw_noise_on() {
        let mut sink = MirroredSink::new(MemorySink::default(), Arc::new(Heard(Mutex::default(), true)), "l");
        assert!(sink.append_durably(b"charge\n").is_err());
        assert_eq!(sink.read().expect("read"), b"charge\n", "and it still counts here");
    }
}
