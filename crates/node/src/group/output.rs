//! Tables for people, JSON for scripts.

use std::fmt::Write as _;

use serde::Serialize;

use super::client::{GroupCommandError, Result};

/// One line of a table.
pub(super) trait Row {
    /// The names of the columns.
    const HEAD: &'static [&'static str];

    /// What is in them.
    fn cells(&self) -> Vec<String>;
}

/// A table with columns as wide as their widest cell.
pub(super) fn render<R: Row>(rows: &[R]) -> String {
    let mut lines = vec![R::HEAD.iter().map(|cell| (*cell).to_owned()).collect()];
    lines.extend(rows.iter().map(Row::cells));
    let mut widths = vec![0; R::HEAD.len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths);
        let cells: Vec<String> = cells.map(|(c, width)| format!("{c:<width$}")).collect();
        // Writing to a String cannot fail.
        writeln!(text, "{}", cells.join("  ").trim_end()).unwrap_or_default();
    }
    text
}

pub(super) fn json<T: Serialize>(value: &T) -> Result<String> {
    let text = serde_json::to_string(value);
    let text = text.map_err(|e| GroupCommandError::Failed(e.to_string()))?;
    Ok(text + "\n")
}

/// Clients choose ids freely: what would break a table's line is shown as an escape.
pub(super) fn or_dash(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default().collect());
            escaped
                .unwrap_or_else(|| c.to_string())
                .chars()
                .collect::<Vec<_>>()
        })
        .collect()
}

pub(super) fn number<N: ToString>(number: Option<N>) -> String {
    number.map_or_else(|| "-".to_owned(), |n| n.to_string())
}

/// Milliseconds as people read them.
pub(super) fn duration(millis: Option<i64>) -> String {
    let Some(millis) = millis else {
        return "-".to_owned();
    };
    let seconds = millis / 1_000;
    match seconds {
        ..1 => format!("{millis} ms"),
        1..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair(&'static str, &'static str);

    impl Row for Pair {
        const HEAD: &'static [&'static str] = &["A", "LONGER"];
        fn cells(&self) -> Vec<String> {
            vec![or_dash(self.0), or_dash(self.1)]
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_stay_lines() {
        let text = render(&[Pair("wide one", ""), Pair("é\n", "x")]);
        assert_eq!(text, "A         LONGER\nwide one  -\né\\n       x\n");
    }

    #[test]
    fn durations_have_the_unit_that_fits() {
        let shown = [
            None,
            Some(7),
            Some(61_000),
            Some(600_000),
            Some(8_000_000),
            Some(1 << 40),
        ];
        let want = ["-", "7 ms", "61 s", "10 min", "2 h", "12725 d"];
        assert_eq!(shown.map(duration), want);
    }
}
