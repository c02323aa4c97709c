//! Golden files: bytes as they were released, in hexadecimal, which no later build may write otherwise.

use std::fmt::Write as _;

/// The bytes in hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
        text
    })
}

/// The bytes that [`hex`] has written; `None` if it has not.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    text.as_bytes().chunks(2).map(byte).collect()
}

/// Holds what was found against the golden text, line by line; with `UPDATE_GOLDEN` in the environment it
/// becomes the golden text at `path`.
///
/// # Errors
/// The first line that differs, or why the file was not written.
pub fn hold(found: &str, golden: &str, path: &str) -> Result<(), String> {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        return std::fs::write(path, found).map_err(|e| format!("{path}: {e}"));
    }
    let (mut found, mut golden) = (found.lines(), golden.lines());
    loop {
        match (found.next(), golden.next()) {
            (None, None) => return Ok(()),
            (found, golden) if found == golden => {}
            (found, golden) => return Err(format!("{found:?} instead of {golden:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_differs_or_is_missing_is_named() {
        assert_eq!(unhex(&hex(&[0, 0x1f, 0xff])), Some(vec![0, 0x1f, 0xff]));
        assert_eq!(unhex("0g"), None);
        assert_eq!(hold("a\nb\n", "a\nb\n", ""), Ok(()));
        for (found, golden) in [("a\nc", "a\nb"), ("a", "a\nb"), ("a\nb", "a")] {
            assert!(hold(found, golden, "").unwrap_err().contains("instead of"));
        }
    }
}
