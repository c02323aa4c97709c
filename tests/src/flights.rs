//! The records of the demo: the flights that left New York City in January 2013.

use std::io::Read as _;
use std::path::Path;

use ruzstd::decoding::StreamingDecoder;

use crate::failure::{Doing, Failure};

/// The column by which the flights are keyed.
pub const FLIGHTS_KEY: &str = "carrier";
/// Longest input, in bytes.
const MAX_INPUT_BYTES: u64 = 1 << 30;

/// One record to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputRecord {
    /// Its key, if the input has one.
    pub key: Option<String>,
    /// Its value: the line.
    pub value: String,
}

/// The flights of January 2013, one record per line, keyed by carrier.
pub fn flights() -> Result<Vec<InputRecord>, Failure> {
    let compressed = include_bytes!("../data/flights-2013-01.csv.zst");
    let what = || "the flights".to_owned();
    let decoder = StreamingDecoder::new(compressed.as_slice()).doing(what)?;
    let text = std::io::read_to_string(decoder).doing(what)?;
    csv(&text, FLIGHTS_KEY)
}

/// The flights of another file of the same form: CSV, compressed by zstd, keyed by carrier.
pub fn flights_from(path: &Path) -> Result<Vec<InputRecord>, Failure> {
    let what = || path.display().to_string();
    let file = std::io::BufReader::new(std::fs::File::open(path).doing(what)?);
    let decoder = StreamingDecoder::new(file).doing(what)?;
    let mut text = String::new();
    decoder
        .take(MAX_INPUT_BYTES)
        .read_to_string(&mut text)
        .doing(what)?;
    csv(&text, FLIGHTS_KEY)
}

/// The records of a person's own file: a CSV file with a header if `key` names one of its columns,
/// otherwise lines without keys.
pub fn from_file(path: &Path, key: Option<&str>) -> Result<Vec<InputRecord>, Failure> {
    let what = || path.display().to_string();
    let length = std::fs::metadata(path).doing(what)?.len();
    if length > MAX_INPUT_BYTES {
        let text = format!(
            "{}: {length} bytes; at most {MAX_INPUT_BYTES}",
            path.display()
        );
        return Err(Failure::new(text));
    }
    let text = std::fs::read_to_string(path).doing(what)?;
    let records = match key {
        Some(key) => csv(&text, key).doing(what)?,
        None => {
            let lines = text.lines().filter(|line| !line.is_empty());
            lines
                .map(|line| InputRecord {
                    key: None,
                    value: line.to_owned(),
                })
                .collect()
        }
    };
    if records.is_empty() {
        return Err(Failure::new(format!("{}: no records", path.display())));
    }
    Ok(records)
}

fn csv(text: &str, key: &str) -> Result<Vec<InputRecord>, Failure> {
    let mut lines = text.lines();
    let header = fields(lines.next().unwrap_or_default());
    let column = header.iter().position(|name| name == key).ok_or_else(|| {
        Failure::new(format!(
            "no column {key:?}; the columns are {}",
            header.join(", ")
        ))
    })?;
    let rows = lines.zip(2..).filter(|(line, _)| !line.is_empty());
    let record = |(line, number): (&str, usize)| {
        let mut fields = fields(line);
        if column >= fields.len() {
            return Err(Failure::new(format!(
                "line {number} has no column {key:?}: {line:?}"
            )));
        }
        Ok(InputRecord {
            key: Some(fields.swap_remove(column)),
            value: line.to_owned(),
        })
    };
    rows.map(record).collect()
}

/// The fields of one line (RFC 4180, but for line breaks within quotes).
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                push(&mut fields, '"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => push(&mut fields, c),
        }
    }
    fields
}

fn push(fields: &mut [String], c: char) {
    if let Some(field) = fields.last_mut() {
        field.push(c);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_flights_are_all_there_and_keyed_by_carrier() {
        let flights = flights().unwrap();
        assert_eq!(flights.len(), 27_004);
        let mut carriers: BTreeMap<&str, usize> = BTreeMap::new();
        for flight in &flights {
            *carriers.entry(flight.key.as_deref().unwrap()).or_default() += 1;
        }
        assert_eq!(carriers.len(), 16);
        assert_eq!(carriers["UA"], 4_637);
        assert_eq!(carriers["OO"], 1);
    }

    #[test]
    fn a_key_column_is_found_by_name_and_quotes_are_understood() {
        let records = csv("id,name\n1,\"a, \"\"b\"\"\"\n\n2,c\n", "name").unwrap();
        let keys: Vec<_> = records.iter().map(|r| r.key.as_deref().unwrap()).collect();
        assert_eq!(keys, ["a, \"b\"", "c"]);
        assert_eq!(records[1].value, "2,c");
        let error = csv("id,name\n", "nmae").unwrap_err().to_string();
        assert!(
            error.contains("nmae") && error.contains("id, name"),
            "{error}"
        );
        let error = csv("id,name\n1\n", "name").unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
    }
}
