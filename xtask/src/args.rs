//! The arguments behind a command's name.

use crate::Failure;

/// The arguments of one command.
#[derive(Debug, Default)]
pub(crate) struct Args {
    pub(crate) help: bool,
    pub(crate) json: bool,
    /// All others, in order.
    pub(crate) rest: Vec<String>,
}

impl Args {
    /// `--help` and `--json` are taken out, unless the command hands its arguments on: then only a
    /// leading `--help` is ours.
    pub(crate) fn new(words: Vec<String>, passes_on: bool) -> Self {
        let is_help = |word: &String| matches!(word.as_str(), "--help" | "-h");
        if passes_on {
            return Self {
                help: words.first().is_some_and(is_help),
                json: false,
                rest: words,
            };
        }
        Self {
            help: words.iter().any(is_help),
            json: words.iter().any(|word| word == "--json"),
            rest: words
                .into_iter()
                .filter(|word| word != "--json" && !is_help(word))
                .collect(),
        }
    }

    /// For commands that take no more arguments.
    pub(crate) fn expect_none(&self) -> Result<(), Failure> {
        match self.rest.first() {
            None => Ok(()),
            Some(word) => Err(Failure::new(format!(
                "unknown argument {word:?}; see --help"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str], passes_on: bool) -> Args {
        Args::new(words.iter().map(ToString::to_string).collect(), passes_on)
    }

    #[test]
    fn common_arguments_are_taken_out() {
        let found = args(&["--json", "-p", "x"], false);
        assert!(found.json && !found.help);
        assert_eq!(found.rest, ["-p", "x"]);
        assert!(found.expect_none().is_err());
        assert!(args(&["--json"], false).expect_none().is_ok());
    }

    #[test]
    fn a_command_that_hands_on_gets_everything() {
        let found = args(&["--runs", "5", "--json"], true);
        assert!(!found.json);
        assert_eq!(found.rest, ["--runs", "5", "--json"]);
        assert!(args(&["--help"], true).help);
    }
}
