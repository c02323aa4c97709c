//! Bugs that can be planted: the list and the places in the code name the same ones.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use super::sources::Source;

/// Where the list is.
const LIST: &str = "crates/core-types/src/planted.rs";
const RULE: &str = "planted-bug";

pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    let mut listed = BTreeSet::new();
    let mut sites = BTreeMap::new();
    for source in sources {
        if source.path == LIST {
            listed.extend(
                source
                    .strings_after("bug(")
                    .into_iter()
                    .map(|(_, name)| name),
            );
        } else {
            for (line, name) in source.strings_after("planted(") {
                sites.insert(name, format!("{}:{}", source.path, line + 1));
            }
        }
    }
    let unlisted = sites.iter().filter(|(name, _)| !listed.contains(*name));
    let unlisted = unlisted.map(|(name, place)| {
        Finding::new(
            RULE,
            place,
            format!("{name:?} is not in the list of {LIST}"),
        )
    });
    let idle = listed.iter().filter(|name| !sites.contains_key(*name));
    let idle = idle.map(|name| Finding::new(RULE, LIST, format!("no code asks for {name:?}")));
    unlisted.chain(idle).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_and_the_places_must_agree() {
        let list =
            "const L: &[B] = &[bug(\n    \"isr.a\",\n    \"breaks\",\n), bug(\"isr.b\", \"too\")];";
        let list = Source::new(LIST, list);
        let user = |text: &str| Source::new("crates/isr/src/a.rs", text);
        let both = user("fn f() { if planted(\"isr.a\") || planted(\n\"isr.b\") {} }");
        assert!(check(&[list.clone(), both]).is_empty());
        let one = user("fn f() { planted(\"isr.a\"); }\n// planted(\"isr.c\")");
        assert_eq!(check(&[list.clone(), one]).len(), 1);
        let strange = user("fn f() { planted(\"isr.a\"); planted(\"isr.b\"); planted(\"isr.d\") }");
        let found = check(&[list, strange]);
        assert_eq!(found.len(), 1);
        assert!(found[0].text.contains("isr.d"));
    }
}
