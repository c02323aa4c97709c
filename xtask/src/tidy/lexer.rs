//! Tells Rust code from comments and strings, as far as the rules on text need it.

/// A source text in two masks of the same line structure: in each, what is not of its sort is blank.
#[derive(Debug, Clone, Default)]
pub(super) struct Masks {
    /// Code without comments and without the insides of strings.
    pub(super) code: String,
    /// Comments, doc comments included.
    pub(super) comments: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Code,
    Comment,
    Text,
}

/// Splits `source`.
pub(super) fn split(source: &str) -> Masks {
    let chars: Vec<char> = source.chars().collect();
    let mut masks = Masks::default();
    let mut at = 0;
    while at < chars.len() {
        let (sort, length) = next(&chars, at);
        let end = chars.len().min(at + length.max(1));
        for c in chars.get(at..end).unwrap_or_default() {
            let blank = if *c == '\n' { '\n' } else { ' ' };
            let is = |wanted| if sort == wanted { *c } else { blank };
            masks.code.push(is(Sort::Code));
            masks.comments.push(is(Sort::Comment));
        }
        at = end;
    }
    masks
}

/// What begins at `at`, and how many characters of it there are.
fn next(chars: &[char], at: usize) -> (Sort, usize) {
    let rest = chars.get(at..).unwrap_or_default();
    let after_word = at > 0
        && chars
            .get(at - 1)
            .is_some_and(|c| c.is_alphanumeric() || *c == '_');
    match rest {
        ['/', '/', ..] => (Sort::Comment, count_until(rest, |c| c == '\n')),
        ['/', '*', ..] => (Sort::Comment, block_comment(rest)),
        ['"', ..] => (Sort::Text, string(rest)),
        ['r', '"' | '#', ..] | ['b' | 'c', 'r', '"' | '#', ..] if !after_word => {
            raw_string(rest).map_or((Sort::Code, 1), |length| (Sort::Text, length))
        }
        ['\'', ..] => match character(rest) {
            Some(length) => (Sort::Text, length),
            None => (Sort::Code, 1),
        },
        _ => (Sort::Code, 1),
    }
}

fn count_until(chars: &[char], end: impl Fn(char) -> bool) -> usize {
    chars.iter().position(|c| end(*c)).unwrap_or(chars.len())
}

fn block_comment(chars: &[char]) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(rest) = chars.get(at..).filter(|rest| !rest.is_empty()) {
        match rest {
            ['/', '*', ..] => {
                depth += 1;
                at += 2;
            }
            ['*', '/', ..] => {
                depth = depth.saturating_sub(1);
                at += 2;
                if depth == 0 {
                    break;
                }
            }
            _ => at += 1,
        }
    }
    at
}

fn string(chars: &[char]) -> usize {
    let mut at = 1;
    loop {
        match chars.get(at) {
            Some('\\') => at += 2,
            Some('"') => return at + 1,
            Some(_) => at += 1,
            None => return at,
        }
    }
}

/// `r"..."`, `r#"..."#`, with `b` or `c` before; `None` for a raw identifier.
fn raw_string(chars: &[char]) -> Option<usize> {
    let open = count_until(chars, |c| c == 'r') + 1;
    let hashes = count_until(chars.get(open..)?, |c| c != '#');
    if chars.get(open + hashes) != Some(&'"') {
        return None;
    }
    let mut at = open + hashes + 1;
    while let Some(c) = chars.get(at) {
        at += 1;
        let closing = chars.get(at..at + hashes);
        if *c == '"' && closing.is_some_and(|end| end.iter().all(|c| *c == '#')) {
            return Some(at + hashes);
        }
    }
    Some(at)
}

/// A character literal; `None` for a lifetime.
fn character(chars: &[char]) -> Option<usize> {
    match chars {
        // The character behind the backslash never ends the literal, which `'\''` needs.
        ['\'', '\\', ..] => Some(3 + count_until(chars.get(3..)?, |c| c == '\'') + 1),
        ['\'', _, '\'', ..] => Some(3),
        _ => None,
    }
}

/// The byte range of the block whose brace opens at or after `from` in `code`, unless a `;` comes
/// first.
pub(super) fn block_after(code: &str, from: usize) -> Option<std::ops::Range<usize>> {
    let rest = code.get(from..)?;
    let open = from + rest.find(['{', ';'])?;
    let mut depth = 0usize;
    for (at, c) in code.get(open..)?.char_indices() {
        match c {
            ';' if depth == 0 => return None,
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(open..open + at + 1);
                }
            }
            _ => {}
        }
    }
    Some(open..code.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_told_from_code() {
        let source = "let a = \"x // y\"; // note \"q\"\n/* b /* c */ d */ let e = 'f';\n";
        let masks = split(source);
        assert_eq!(masks.code.lines().count(), 2);
        assert!(!masks.code.contains("y") && !masks.code.contains("note"));
        assert!(masks.code.contains("let e = "));
        assert!(masks.comments.contains("note \"q\"") && masks.comments.contains("d */"));
        assert!(!masks.comments.contains("let"));
    }

    #[test]
    fn raw_strings_escapes_and_lifetimes_do_not_confuse_it() {
        for source in [
            r##"f(r#"a " b"#); end"##,
            r#"f("a \" b"); end"#,
            r"f('\''); end",
            r"f('\u{1F600}', '\\'); end",
            "f::<'a>(&'a b); end",
            "f(br\"a\\\"); end",
            "f(r#type); end",
            "f('\"'); end",
        ] {
            assert!(split(source).code.ends_with("; end"), "{source}");
        }
    }

    #[test]
    fn blocks_are_found_by_their_braces() {
        let code = "mod a { fn b() { } } mod c;";
        assert_eq!(block_after(code, 0), Some(6..20));
        assert_eq!(block_after(code, 20), None);
    }
}
