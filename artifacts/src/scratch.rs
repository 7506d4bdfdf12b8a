//! Folders for tests: in memory where there is such a file system, since the tests that use them simulate the disk.

/// A folder that vanishes with its handle.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder for the test")
}
