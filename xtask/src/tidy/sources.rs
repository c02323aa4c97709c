//! Rules on Rust source texts.

use std::collections::BTreeSet;
use std::ops::Range;

use super::Finding;
use super::lexer::{Masks, block_after, split};

/// Longest file, in lines, and from where on a warning is given.
const MAX_LINES: usize = 700;
const WARN_LINES: usize = 600;

/// A Rust file.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Relative to the workspace's root.
    pub(super) path: String,
    text: String,
    masks: Masks,
    /// The byte ranges of the code mask that are tests.
    tests: Vec<Range<usize>>,
}

impl Source {
    pub(super) fn new(path: impl Into<String>, text: &str) -> Self {
        let path = path.into();
        let masks = split(text);
        let tests = if is_test_file(&path) {
            std::iter::once(0..masks.code.len()).collect()
        } else {
            let marks = masks.code.match_indices("#[cfg(test)]");
            marks
                .filter_map(|(at, mark)| block_after(&masks.code, at + mark.len()))
                .collect()
        };
        Self {
            path,
            text: text.to_owned(),
            masks,
            tests,
        }
    }

    fn is_test(&self, at: usize) -> bool {
        self.tests.iter().any(|range| range.contains(&at))
    }

    fn line_of(&self, mask: &str, at: usize) -> usize {
        mask.get(..at).unwrap_or_default().matches('\n').count()
    }

    fn finding(&self, rule: &'static str, line: usize, text: impl Into<String>) -> Finding {
        Finding::new(rule, format!("{}:{}", self.path, line + 1), text)
    }

    /// The first argument of each call outside tests that begins with `call`, if it is a literal
    /// string, with its line.
    pub(super) fn strings_after(&self, call: &str) -> Vec<(usize, String)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let mut found = Vec::new();
        for (line, code) in self.masks.code.lines().enumerate() {
            if !code.contains(call) || is_test_line(self, line) {
                continue;
            }
            let rest = lines.get(line..).unwrap_or_default();
            let text = rest.iter().take(2).copied().collect::<Vec<_>>().join("\n");
            let first = text.lines().next().map_or(0, str::len);
            for (at, call) in text.match_indices(call).filter(|(at, _)| *at < first) {
                let argument = text.get(at + call.len()..).unwrap_or_default();
                let literal = argument.trim_start().strip_prefix('"');
                if let Some((name, _)) = literal.and_then(|rest| rest.split_once('"')) {
                    found.push((line, name.to_owned()));
                }
            }
        }
        found
    }

    /// The names of the functions in test code.
    pub(super) fn test_functions(&self) -> impl Iterator<Item = &str> {
        let found = self.masks.code.match_indices("fn ");
        found.filter(|(at, _)| self.is_test(*at)).map(|(at, word)| {
            let rest = self.masks.code.get(at + word.len()..).unwrap_or_default();
            word_of(rest)
        })
    }
}

fn word_of(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_'));
    text.get(..end.unwrap_or(text.len())).unwrap_or_default()
}

/// The harness, the tests beside a crate, and modules that are all tests.
fn is_test_file(path: &str) -> bool {
    path.starts_with("tests/")
        || path.contains("/tests/")
        || path.contains("/benches/")
        || path.ends_with("/tests.rs")
}

/// Marks files that are modules declared under `#[cfg(test)]`, whatever their names.
pub(super) fn mark_test_modules(sources: &mut [Source]) {
    let mut files = BTreeSet::new();
    for source in sources.iter() {
        for (at, mark) in source.masks.code.match_indices("#[cfg(test)]") {
            let rest = source.masks.code.get(at + mark.len()..).unwrap_or_default();
            let rest = rest.trim_start();
            let Some(name) = rest.strip_prefix("mod ").map(word_of) else {
                continue;
            };
            let (folder, file) = source.path.rsplit_once('/').unwrap_or_default();
            let folder = match file {
                "lib.rs" | "main.rs" | "mod.rs" => folder.to_owned(),
                file => format!("{folder}/{}", file.trim_end_matches(".rs")),
            };
            files.insert(format!("{folder}/{name}.rs"));
        }
    }
    for source in sources {
        if files.contains(&source.path) {
            source.tests = std::iter::once(0..source.masks.code.len()).collect();
        }
    }
}

pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    sources
        .iter()
        .flat_map(|source| {
            [
                check_length(source),
                check_words(source),
                check_sleeps(source),
                check_ignored(source),
            ]
            .concat()
        })
        .collect()
}

fn check_length(source: &Source) -> Vec<Finding> {
    let lines = source.text.lines().count();
    if lines <= WARN_LINES {
        return Vec::new();
    }
    let text = format!("{lines} lines; a file has about {WARN_LINES}, at most {MAX_LINES}");
    let mut finding = Finding::new("file-length", &source.path, text);
    finding.is_warning = lines <= MAX_LINES;
    vec![finding]
}

fn check_words(source: &Source) -> Vec<Finding> {
    let code = [".unwrap()", "todo!", "unimplemented!"];
    let comments = ["TODO", "FIXME"];
    let code = code.iter().map(|word| (&source.masks.code, *word));
    let comments = comments.iter().map(|word| (&source.masks.comments, *word));
    let mut findings = Vec::new();
    for (mask, word) in code.chain(comments) {
        for (at, _) in mask.match_indices(word) {
            // Both masks have the same bytes only up to characters that one of them blanks, so
            // whether it is a test is judged by lines.
            let line = source.line_of(mask, at);
            if !is_test_line(source, line) {
                let text = format!("{word} outside tests");
                findings.push(source.finding("forbidden-word", line, text));
            }
        }
    }
    findings
}

fn is_test_line(source: &Source, line: usize) -> bool {
    source.tests.iter().any(|range| {
        let first = source.line_of(&source.masks.code, range.start);
        let last = source.line_of(&source.masks.code, range.end);
        (first..=last).contains(&line)
    })
}

/// The simulator runs on nothing but a paused clock.
const SIMULATOR: &str = "tests/src/sim";

fn check_sleeps(source: &Source) -> Vec<Finding> {
    let code = &source.masks.code;
    // With tokio's clock paused a sleep takes no time and hides no race.
    let is_paused = code.contains("start_paused")
        || code.contains("time::pause()")
        || source.path.starts_with(SIMULATOR);
    let lines: Vec<&str> = source.text.lines().collect();
    let mut findings = Vec::new();
    for word in ["sleep(", "sleep_until(", "sleep_ms("] {
        for (at, _) in code.match_indices(word) {
            let before = code.get(..at).unwrap_or_default();
            let bare = !before.ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '.'));
            let defined = before.ends_with("fn ");
            if !bare || defined || !source.is_test(at) {
                continue;
            }
            if is_paused && !before.ends_with("thread::") {
                continue;
            }
            let line = source.line_of(code, at);
            let marked = [line.checked_sub(1), Some(line)]
                .into_iter()
                .flatten()
                .any(|n| lines.get(n).is_some_and(|l| l.contains("sleep-ok: ")));
            if !marked {
                let text = "a test sleeps; wait for a condition with a deadline, or say why not in a \
                            comment `sleep-ok: <why>`";
                findings.push(source.finding("sleep", line, text));
            }
        }
    }
    findings
}

fn check_ignored(source: &Source) -> Vec<Finding> {
    let code = &source.masks.code;
    let mut findings = Vec::new();
    for (at, _) in code.match_indices("#[ignore") {
        let line = source.line_of(code, at);
        let text: String = source.text.lines().skip(line).take(3).collect();
        let attribute = text
            .split_once("#[ignore")
            .and_then(|(_, rest)| rest.split_once(']'))
            .map_or("", |(reason, _)| reason);
        if !attribute.contains("cargo xtask ") {
            let text = "an ignored test names the cargo xtask command that runs it";
            findings.push(source.finding("ignored-test", line, text));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "crates/swim/src/lib.rs";

    fn rules(path: &str, text: &str) -> Vec<&'static str> {
        let findings = check(&[Source::new(path, text)]);
        findings.iter().map(|f| f.rule).collect()
    }

    #[test]
    fn long_files_are_found() {
        assert_eq!(rules(PATH, &"\n".repeat(MAX_LINES + 1)), ["file-length"]);
        let warned = check(&[Source::new(PATH, &"\n".repeat(WARN_LINES + 1))]);
        assert!(warned[0].is_warning);
        assert!(rules(PATH, &"\n".repeat(WARN_LINES)).is_empty());
    }

    #[test]
    fn forbidden_words_are_found_outside_tests() {
        for bad in [
            "fn f() { x.unwrap(); }",
            "fn f() { todo!() }",
            "fn f() { unimplemented!() }",
            "// TODO: later",
            "/// FIXME",
            "#[cfg(test)]\nmod tests { }\nfn f() { x.unwrap(); }",
            "#[cfg(test)]\nmod tests;\nfn f() { x.unwrap(); }",
        ] {
            assert_eq!(rules(PATH, bad), ["forbidden-word"], "{bad}");
        }
        for good in [
            "/// x.unwrap()",
            "fn f() { g(\"x.unwrap() TODO\") }",
            "fn f() { x.unwrap_or(1); }",
            "#[cfg(test)]\nmod tests { fn f() { x.unwrap(); } }",
        ] {
            assert!(rules(PATH, good).is_empty(), "{good}");
        }
        assert!(rules("crates/swim/src/x/tests.rs", "fn f() { x.unwrap(); }").is_empty());
    }

    #[test]
    fn a_module_declared_for_tests_is_test_code() {
        let mut sources = [
            Source::new("crates/swim/src/member.rs", "#[cfg(test)]\nmod scenarios;"),
            Source::new(
                "crates/swim/src/member/scenarios.rs",
                "fn f() { x.unwrap(); }",
            ),
        ];
        assert_eq!(check(&sources).len(), 1);
        mark_test_modules(&mut sources);
        assert_eq!(check(&sources).len(), 0);
    }

    #[test]
    fn sleeps_in_tests_are_found() {
        let wrap = |body: &str| format!("#[cfg(test)]\nmod tests {{\n fn f() {{\n{body}\n }}\n}}");
        for bad in [
            "thread::sleep(d);",
            "std::thread::sleep(d);",
            "tokio::time::sleep(d).await;",
            "sleep(d).await;",
            "tokio::time::sleep_until(d).await;",
        ] {
            assert_eq!(rules(PATH, &wrap(bad)), ["sleep"], "{bad}");
            assert_eq!(rules("tests/src/lib.rs", bad), ["sleep"], "{bad}");
            assert!(rules(PATH, bad).is_empty(), "production code is clippy's");
        }
        for good in [
            "// sleep-ok: polls with a deadline\nthread::sleep(d);",
            "thread::sleep(d); // sleep-ok: polls with a deadline",
            "clock.sleep(d);",
            "fn sleep(d: u8) {}",
            "tokio::time::pause();\ntokio::time::sleep(d).await;",
        ] {
            assert!(rules(PATH, &wrap(good)).is_empty(), "{good}");
        }
        let simulated = "tokio::time::sleep(d).await;";
        assert!(rules("tests/src/sim/network.rs", simulated).is_empty());
        assert_eq!(rules("tests/src/wait.rs", simulated), ["sleep"]);
        let real = wrap("tokio::time::pause();\nthread::sleep(d);");
        assert_eq!(
            rules(PATH, &real),
            ["sleep"],
            "a paused clock does not pause threads"
        );
    }

    #[test]
    fn ignored_tests_without_a_command_are_found() {
        for bad in ["#[ignore]\nfn f() {}", "#[ignore = \"slow\"]\nfn f() {}"] {
            assert_eq!(rules(PATH, bad), ["ignored-test"]);
        }
        assert!(rules(PATH, "#[ignore = \"run by cargo xtask chaos\"]\nfn f() {}").is_empty());
    }

    #[test]
    fn the_functions_of_tests_are_listed() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests { fn b_c() {} fn d<T>() {} }";
        let source = Source::new(PATH, text);
        assert_eq!(source.test_functions().collect::<Vec<_>>(), ["b_c", "d"]);
    }
}
