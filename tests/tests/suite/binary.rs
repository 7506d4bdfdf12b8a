//! The program under test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// What a finished process left.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program prints UTF-8");
        let ended = Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        ended
    }

    /// Fails the test unless the program ended with `code`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard output as one JSON value.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }

    /// Standard output as one JSON value a line.
    #[track_caller]
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
    }
}

/// The program with these arguments, in an environment without the user's settings.
pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sprint-flow-under-test"));
    for name in ["SPRINT_FLOW_STORE", "SPRINT_FLOW_LOG", "HF_ENDPOINT", "HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1").env("COLUMNS", "100").args(args).stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub(crate) fn sprint_flow<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Ended {
    Ended::of(command(args).output().expect("the program starts"))
}

/// Starts the program; [`finish`] waits for it.
pub(crate) fn start<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Child {
    command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

/// Waits for a started program.
pub(crate) fn finish(child: Child) -> Ended {
    Ended::of(child.wait_with_output().expect("the program ends"))
}

/// A file of the quickstart.
pub(crate) fn quickstart(name: &str) -> PathBuf {
    // Cargo runs tests in their package's folder. A path compiled in would lead into whichever checkout last filled the target folder.
    fs::canonicalize(Path::new("../workflows/quickstart").join(name)).expect("the quickstart is in the repository")
}
