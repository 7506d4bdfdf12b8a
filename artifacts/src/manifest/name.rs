//! Which names files in an artifact may have: those that mean the same file on every machine and never leave the folder.

use std::collections::BTreeSet;

/// The longest name, in bytes.
const MAX_NAME: usize = 1024;
/// The longest component, in bytes; the limit of common file systems.
const MAX_COMPONENT: usize = 255;

/// What is wrong with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// It is empty, or has an empty component.
    #[error("a component is empty")]
    Empty,
    /// It begins with `/`.
    #[error("it is absolute")]
    Absolute,
    /// It has a component `.` or `..`.
    #[error("\".\" and \"..\" are not allowed")]
    Dots,
    /// It has a control character or a backslash.
    #[error("control characters and backslashes are not allowed")]
    Character,
    /// It is longer than file systems allow.
    #[error("it is too long")]
    TooLong,
    /// It occurs twice.
    #[error("it occurs twice")]
    Repeated,
    /// It is also the folder of another file.
    #[error("it is also the folder of another file")]
    FileAndFolder,
}

fn check_name(name: &str) -> Result<(), NameError> {
    if name.starts_with('/') {
        return Err(NameError::Absolute);
    }
    if name.len() > MAX_NAME {
        return Err(NameError::TooLong);
    }
    for component in name.split('/') {
        match component {
            "" => return Err(NameError::Empty),
            "." | ".." => return Err(NameError::Dots),
            c if c.len() > MAX_COMPONENT => return Err(NameError::TooLong),
            c if c.chars().any(|x| x.is_control() || x == '\\') => return Err(NameError::Character),
            _ => {}
        }
    }
    Ok(())
}

/// Checks the names of one artifact together; names the first offender.
pub(super) fn check_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), (String, NameError)> {
    let mut seen = BTreeSet::new();
    for name in names {
        check_name(name).map_err(|reason| (name.to_owned(), reason))?;
        if !seen.insert(name) {
            return Err((name.to_owned(), NameError::Repeated));
        }
    }
    for name in &seen {
        for (slash, _) in name.match_indices('/') {
            if seen.contains(&name[..slash]) {
                return Err((name[..slash].to_owned(), NameError::FileAndFolder));
            }
        }
    }
    Ok(())
}

/// Whether this is `name@version`: lower-case letters, digits, `-`, `_`, `.`, then `@` and a decimal number.
pub(super) fn is_kind(kind: &str) -> bool {
    let Some((name, version)) = kind.split_once('@') else { return false };
    let name_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    !name.is_empty()
        && kind.len() <= 128
        && name.bytes().all(name_byte)
        && !version.is_empty()
        && version.bytes().all(|b| b.is_ascii_digit())
        && !version.starts_with('0')
}
