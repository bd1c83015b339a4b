//! Subscriptions by regular expression. The engine takes time linear in the names and the expression, whatever that is.

use std::collections::BTreeSet;

use regex::{Regex, RegexBuilder};

use super::Refusal;
use crate::coordinator::group::GroupError;
use crate::metadata::Catalog;

/// Bytes that a compiled expression may take.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// Compiles an expression that has to match whole names.
pub(super) fn compile(regex: &str) -> Result<Regex, Refusal> {
    let build = |text: &str| {
        RegexBuilder::new(text)
            .size_limit(COMPILED_BYTES_MAX)
            .build()
    };
    // First as it is: "a)|(b" must not become valid in parentheses.
    let compiled = build(regex).and_then(|_| build(&format!(r"\A(?:{regex})\z")));
    compiled.map_err(|error| Refusal {
        error: GroupError::InvalidRegularExpression,
        message: format!("subscribed topic regex {regex} is not valid: {error}"),
    })
}

/// The topics that match.
pub(super) fn resolve(regex: &str, catalog: &Catalog) -> Result<BTreeSet<String>, Refusal> {
    let regex = compile(regex)?;
    Ok(catalog
        .topics()
        .filter(|topic| regex.is_match(&topic.name))
        .map(|topic| topic.name.to_string())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(regex: &str, name: &str) -> bool {
        compile(regex).is_ok_and(|regex| regex.is_match(name))
    }

    #[test]
    fn an_expression_matches_whole_names() {
        assert!(matches("a|ab", "ab"));
        assert!(matches("log-.*", "log-1"));
        assert!(!matches("log", "log-1"));
        assert!(!matches("og", "log"));
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for bad in ["[", "a)|(b", "(?!x)", r"\1", "(a{1000}){1000}"] {
            let refused = compile(bad).map_err(|refusal| refusal.error);
            assert!(
                matches!(refused, Err(GroupError::InvalidRegularExpression)),
                "{bad}"
            );
        }
    }
}
