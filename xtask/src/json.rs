//! As much JSON as `cargo metadata` and the reports need.

use std::fmt;

use crate::Failure;

/// Deepest nesting accepted.
const MAX_DEPTH: usize = 64;

/// A JSON value. Numbers stay text: nothing here computes with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Self>),
    Object(Vec<(String, Self)>),
}

impl Json {
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let mut parser = Parser { text, at: 0 };
        let value = parser.value(0)?;
        parser.skip_space();
        if parser.at == text.len() {
            Ok(value)
        } else {
            Err(parser.fail("the end"))
        }
    }

    /// The member `key` of an object; `Null` if there is none.
    pub(crate) fn get(&self, key: &str) -> &Self {
        let Self::Object(members) = self else {
            return &Self::Null;
        };
        let found = members.iter().find(|(name, _)| name == key);
        found.map_or(&Self::Null, |(_, value)| value)
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::List(_) | Self::Object(_) => None,
        }
    }

    pub(crate) fn items(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Text(_) | Self::Object(_) => &[],
        }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        let members: &[(String, Self)] = match self {
            Self::Object(members) => members,
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Text(_) | Self::List(_) => &[],
        };
        members.iter().map(|(name, _)| name.as_str())
    }
}

impl fmt::Display for Json {
    /// Writes the value on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => value.fmt(f),
            Self::Number(text) => f.write_str(text),
            Self::Text(text) => f.write_str(&quote(text)),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(Self::to_string).collect();
                write!(f, "[{}]", items.join(","))
            }
            Self::Object(members) => {
                let members: Vec<_> = members
                    .iter()
                    .map(|(key, value)| format!("{}:{value}", quote(key)))
                    .collect();
                write!(f, "{{{}}}", members.join(","))
            }
        }
    }
}

/// `text` as a JSON string, in quotes.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if u32::from(c) < 0x20 => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn fail(&self, expected: &str) -> Failure {
        Failure::new(format!("JSON: expected {expected} at byte {}", self.at))
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(|c| c.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn accept(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    fn value(&mut self, depth: usize) -> Result<Json, Failure> {
        if depth > MAX_DEPTH {
            return Err(self.fail("less nesting"));
        }
        self.skip_space();
        match self.peek() {
            Some('{') => self.object(depth),
            Some('[') => self.list(depth),
            Some('"') => self.string().map(Json::Text),
            Some('-' | '0'..='9') => {
                let is_digit = |c: char| matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E');
                let rest = self.rest();
                let end = rest.find(|c| !is_digit(c)).unwrap_or(rest.len());
                let number = rest.get(..end).unwrap_or_default().to_owned();
                self.at += end;
                Ok(Json::Number(number))
            }
            _ if self.accept("null") => Ok(Json::Null),
            _ if self.accept("true") => Ok(Json::Bool(true)),
            _ if self.accept("false") => Ok(Json::Bool(false)),
            _ => Err(self.fail("a value")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json, Failure> {
        self.at += 1;
        let mut members = Vec::new();
        loop {
            self.skip_space();
            if members.is_empty() && self.accept("}") {
                return Ok(Json::Object(members));
            }
            let key = self.string()?;
            self.skip_space();
            if !self.accept(":") {
                return Err(self.fail("':'"));
            }
            members.push((key, self.value(depth + 1)?));
            self.skip_space();
            if self.accept("}") {
                return Ok(Json::Object(members));
            }
            if !self.accept(",") {
                return Err(self.fail("',' or '}'"));
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Json, Failure> {
        self.at += 1;
        let mut items = Vec::new();
        loop {
            self.skip_space();
            if items.is_empty() && self.accept("]") {
                return Ok(Json::List(items));
            }
            items.push(self.value(depth + 1)?);
            self.skip_space();
            if self.accept("]") {
                return Ok(Json::List(items));
            }
            if !self.accept(",") {
                return Err(self.fail("',' or ']'"));
            }
        }
    }

    fn string(&mut self) -> Result<String, Failure> {
        if !self.accept("\"") {
            return Err(self.fail("a string"));
        }
        let mut text = String::new();
        loop {
            match self.next() {
                Some('"') => return Ok(text),
                Some('\\') => text.push(self.escape()?),
                Some(c) => text.push(c),
                None => return Err(self.fail("'\"'")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Failure> {
        match self.next() {
            Some(c @ ('"' | '\\' | '/')) => Ok(c),
            Some('n') => Ok('\n'),
            Some('t') => Ok('\t'),
            Some('r') => Ok('\r'),
            Some('b') => Ok('\u{8}'),
            Some('f') => Ok('\u{c}'),
            Some('u') => {
                let digits = self.rest().get(..4).unwrap_or_default();
                let code = u32::from_str_radix(digits, 16).map_err(|_| self.fail("4 digits"))?;
                self.at += 4;
                // Half of a surrogate pair: nothing here prints beyond the basic plane.
                Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
            }
            _ => Err(self.fail("an escape")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_parse() {
        let json = Json::parse(r#" {"a":[1,-2.5e3,true,null],"b":{"c":"x\n\"\u0041"},"d":[]} "#);
        let json = json.unwrap();
        assert_eq!(json.get("a").items().len(), 4);
        assert_eq!(json.get("a").items()[1], Json::Number("-2.5e3".to_owned()));
        assert_eq!(json.get("b").get("c").as_text(), Some("x\n\"A"));
        assert_eq!(json.keys().collect::<Vec<_>>(), ["a", "b", "d"]);
        assert_eq!(json.get("missing"), &Json::Null);
    }

    #[test]
    fn broken_texts_are_errors() {
        let deep = "[".repeat(1_000);
        for text in [
            "", "{", "[1,]", "{\"a\"}", "\"x", "1 2", "\"\\q\"", "\"\\u00", &deep,
        ] {
            assert!(Json::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn quoting_round_trips() {
        let text = "a \"b\" \\ \n \u{1} é";
        assert_eq!(Json::parse(&quote(text)).unwrap().as_text(), Some(text));
    }
}
