//! Subscriptions by regular expression.
//!
//! What expressions match is found before the group is decided on, without its lock (`Expressions`), and handed to the decision as a value: a
//! slow expression holds up the member that sent it, and nobody else. Every group that asks for the same one while no topic comes or goes
//! gets the same answer.
//!
//! An expression cannot cost much: its length and what it compiles to are bounded, and matching is linear in both and in the names. What takes longer than
//! a second all the same, for there are many topics, is given up. Beyond the bounds it is refused as one that does not compile, until topics come or
//! go. Two expressions at most are looked up at a time, in all groups; what comes meanwhile is left to its member's next heartbeat. So whoever sends
//! many that are slow has two threads at work at most, none of which serves a connection (`server/connection.rs` runs a heartbeat
//! of a consumer group, and a join, where others take over).
//!
//! The syntax is RE2's, as Kafka's (RE2/J), with the `regex` crate as the engine, and `\Q…\E` on top. Refused here and taken there: octal escapes of more than
//! one digit, and braces that are no repetition. Names are ASCII, so that `\d` or a case that Unicode folds is the same in both.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use regex::bytes::{Regex, RegexBuilder};

use super::Refusal;
use crate::coordinator::group::GroupError;
use crate::metadata::Catalog;

/// Longest expression.
const EXPRESSION_BYTES_MAX: usize = 4096;
/// Bytes that a compiled expression may take.
const COMPILED_BYTES_MAX: usize = 128 << 10;
/// Bytes that a search may use to be faster.
const SEARCH_BYTES_MAX: usize = 256 << 10;
/// The time to find what an expression matches.
const RESOLVE_MS_MAX: i64 = 1000;
/// Expressions that are looked up at a time.
const RESOLVING_MAX: usize = 2;
/// Expressions that are remembered, and names in all of them.
const REMEMBERED_MAX: usize = 64;
const REMEMBERED_NAMES_MAX: usize = 1 << 16;

/// What expressions match, or why they are refused.
pub(crate) type Matches = BTreeMap<String, Match>;

type Match = Result<Arc<BTreeSet<String>>, Refusal>;

/// For a decision that asks for none.
pub(crate) static NO_MATCHES: Matches = BTreeMap::new();

/// What the expressions of all groups match.
#[derive(Default)]
pub(crate) struct Expressions {
    remembered: Mutex<Remembered>,
    /// How many are looked up just now.
    resolving: AtomicUsize,
}

/// Leave to look one up.
struct Turn<'a>(&'a AtomicUsize);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[derive(Default)]
struct Remembered {
    topics_version: u64,
    matches: HashMap<String, Match>,
    names: usize,
}

impl Expressions {
    /// What these match now; nothing of those that cannot be looked up just now. `catalog` lends the topics for as long as it takes to copy
    /// their names.
    pub(crate) fn resolve<'a>(
        &self,
        expressions: impl IntoIterator<Item = &'a String>,
        catalog: impl Fn(&mut dyn FnMut(&Catalog)),
        now_ms: impl Fn() -> i64,
    ) -> Matches {
        let mut matches = Matches::new();
        let mut names = None;
        for expression in expressions {
            let (version, names) = names.get_or_insert_with(|| names_of(&catalog));
            let found = match self.remembered(expression, *version) {
                Some(found) => found,
                None => {
                    let Some(_turn) = self.turn() else {
                        continue;
                    };
                    let found = resolve(expression, names, &now_ms).map(Arc::new);
                    self.remember(expression, *version, &found);
                    found
                }
            };
            matches.insert(expression.clone(), found);
        }
        matches
    }

    fn turn(&self) -> Option<Turn<'_>> {
        let next = |turns| Some(turns + 1).filter(|turns| *turns <= RESOLVING_MAX);
        let taken = self
            .resolving
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        taken.ok().map(|_| Turn(&self.resolving))
    }

    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self, expression: &str, topics_version: u64) -> Option<Match> {
        let remembered = self.lock();
        let found = remembered.matches.get(expression)?;
        (remembered.topics_version == topics_version).then(|| found.clone())
    }

    fn remember(&self, expression: &str, topics_version: u64, found: &Match) {
        let names = found.as_ref().map_or(0, |topics| topics.len());
        let mut remembered = self.lock();
        if remembered.topics_version != topics_version
            || remembered.matches.len() >= REMEMBERED_MAX
            || remembered.names + names > REMEMBERED_NAMES_MAX
        {
            *remembered = Remembered {
                topics_version,
                ..Remembered::default()
            };
        }
        if names <= REMEMBERED_NAMES_MAX && expression.len() <= EXPRESSION_BYTES_MAX {
            remembered.names += names;
            let expression = expression.to_owned();
            remembered.matches.insert(expression, found.clone());
        }
    }
}

fn names_of(catalog: impl Fn(&mut dyn FnMut(&Catalog))) -> (u64, Vec<Arc<str>>) {
    let mut copied = (0, Vec::new());
    catalog(&mut |catalog| {
        let names = catalog.topics().map(|topic| topic.name.clone());
        copied = (catalog.topics_version(), names.collect());
    });
    copied
}

/// The names that match.
fn resolve(
    expression: &str,
    names: &[Arc<str>],
    now_ms: impl Fn() -> i64,
) -> Result<BTreeSet<String>, Refusal> {
    let give_up_ms = now_ms().saturating_add(RESOLVE_MS_MAX);
    let regex = compile(expression)?;
    let mut matching = BTreeSet::new();
    for name in names {
        if regex.is_match(name.as_bytes()) {
            matching.insert(name.to_string());
        }
        if now_ms() >= give_up_ms {
            return Err(Refusal {
                error: GroupError::InvalidRegularExpression,
                message: format!(
                    "subscribed topic regex {expression} takes too long for {} topics",
                    names.len()
                ),
            });
        }
    }
    Ok(matching)
}

/// Compiles an expression that has to match whole names.
fn compile(expression: &str) -> Result<Regex, Refusal> {
    let refusal = |reason: &str| Refusal {
        error: GroupError::InvalidRegularExpression,
        message: format!("subscribed topic regex {expression} is not valid: {reason}"),
    };
    if expression.len() > EXPRESSION_BYTES_MAX {
        return Err(Refusal {
            error: GroupError::InvalidRegularExpression,
            message: format!(
                "subscribed topic regex is not valid: {} bytes, {EXPRESSION_BYTES_MAX} are the most",
                expression.len()
            ),
        });
    }
    let build = |text: &str, unicode: bool| {
        RegexBuilder::new(text)
            .unicode(unicode)
            .size_limit(COMPILED_BYTES_MAX)
            .dfa_size_limit(SEARCH_BYTES_MAX)
            .build()
    };
    // Without Unicode classes are small. Expressions that name some of Unicode need it to compile.
    let build = |text: &str| build(text, false).or_else(|_| build(text, true));
    let quoted = quoted(expression);
    // First as it is: "a)|(b" must not become valid in parentheses.
    let compiled = build(&quoted).and_then(|_| build(&format!(r"\A(?:{quoted})\z")));
    compiled.map_err(|error| refusal(&error.to_string()))
}

/// What lies between `\Q` and `\E`, or the end, means itself.
fn quoted(expression: &str) -> Cow<'_, str> {
    if !expression.contains(r"\Q") {
        return Cow::Borrowed(expression);
    }
    let mut quoted = String::with_capacity(expression.len());
    let mut rest = expression;
    while let Some((before, escaped)) = rest.split_once('\\') {
        quoted.push_str(before);
        if let Some(literal) = escaped.strip_prefix('Q') {
            let (literal, after) = literal.split_once(r"\E").unwrap_or((literal, ""));
            quoted.push_str(&regex::escape(literal));
            rest = after;
        } else {
            let mut characters = escaped.chars();
            quoted.push('\\');
            quoted.extend(characters.next());
            rest = characters.as_str();
        }
    }
    quoted.push_str(rest);
    Cow::Owned(quoted)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::cell::Cell;

    use uuid::Uuid;

    use super::*;
    use crate::metadata::{Command, Topic};

    fn matches(regex: &str, name: &str) -> bool {
        compile(regex).is_ok_and(|regex| regex.is_match(name.as_bytes()))
    }

    #[test]
    fn an_expression_matches_whole_names() {
        assert!(matches("a|ab", "ab"));
        assert!(matches("log-.*", "log-1"));
        assert!(!matches("log", "log-1"));
        assert!(!matches("og", "log"));
        assert!(matches(r"\d+\.(?i)LOG", "12.log"));
        assert!(matches(r"\p{L}+_[[:alpha:]]", "a_b"));
        assert!(matches("[^.]{1,249}", &"x".repeat(249)));
    }

    #[test]
    fn what_is_quoted_means_itself() {
        assert!(matches(r"\Qa.b\E.*", "a.bc"));
        assert!(!matches(r"\Qa.b\E.*", "axbc"));
        assert!(matches(r"\.\Q.", ".."));
        assert!(!matches(r"\\Qa", "a"));
    }

    #[test]
    fn what_is_no_expression_or_costs_too_much_is_refused() {
        let long = "a".repeat(EXPRESSION_BYTES_MAX + 1);
        let nested = format!("{}a{}", "(".repeat(2000), ")".repeat(2000));
        for bad in [
            "[",
            "a)|(b",
            "(?!x)",
            r"\1",
            "(a{1000}){1000}",
            "((a{100}){100}){100}",
            r"(\pL{50}){50}",
            &long,
            &nested,
        ] {
            let refused = compile(bad).map_err(|refusal| refusal.error);
            assert!(
                matches!(refused, Err(GroupError::InvalidRegularExpression)),
                "{bad}"
            );
        }
    }

    #[test]
    fn what_was_found_is_remembered_until_topics_change() {
        let expressions = Expressions::default();
        let mut catalog = Catalog::default();
        let mut create = |name: &str| {
            catalog.replay(&Command::CreateTopic(Topic {
                name: name.into(),
                id: Uuid::from_u128(name.len() as u128),
                partition_count: 1,
                configs: BTreeMap::default(),
            }));
            catalog.clone()
        };
        let lent = Cell::new(0);
        let resolve = |catalog: &Catalog, expression: &str| {
            let lend = |borrow: &mut dyn FnMut(&Catalog)| {
                lent.set(lent.get() + 1);
                borrow(catalog);
            };
            let mut matches = expressions.resolve([&expression.to_owned()], lend, || 0);
            matches.remove(expression).unwrap()
        };
        let one = create("log-a");
        let first = resolve(&one, "log-.*").unwrap();
        assert!(Arc::ptr_eq(&first, &resolve(&one, "log-.*").unwrap()));
        let two = create("log-bb");
        assert_eq!(resolve(&two, "log-.*").unwrap().len(), 2);
        assert!(resolve(&two, "[").is_err());
        assert_eq!(lent.get(), 4, "once a call, to copy the names");
        for number in 0..1000 {
            let _ = resolve(&two, &format!("log-.*|{number}"));
        }
        assert!(expressions.lock().matches.len() <= REMEMBERED_MAX);
        assert!(expressions.resolve([], |_| unreachable!(), || 0).is_empty());
    }

    fn catalog_of(topics: u32) -> Catalog {
        let mut catalog = Catalog::default();
        for index in 0..topics {
            catalog.replay(&Command::CreateTopic(Topic {
                name: format!("log-{index}").into(),
                id: Uuid::from_u128(index.into()),
                partition_count: 1,
                configs: BTreeMap::default(),
            }));
        }
        catalog
    }

    #[test]
    fn an_expression_that_takes_too_long_is_given_up_and_not_tried_again() {
        let expressions = Expressions::default();
        let catalog = catalog_of(1001);
        let expression = "log-.*".to_owned();
        let now_ms = Cell::new(0);
        // A millisecond a name.
        let resolve = |catalog: &Catalog| {
            let mut matches = expressions.resolve(
                [&expression],
                |lend| lend(catalog),
                || now_ms.replace(now_ms.get() + 1),
            );
            matches.remove(&expression).unwrap()
        };
        let refused = resolve(&catalog).unwrap_err();
        assert!(matches!(
            refused.error,
            GroupError::InvalidRegularExpression
        ));
        let took_ms = now_ms.get();
        assert!(took_ms <= RESOLVE_MS_MAX + 1, "{took_ms}");
        assert!(resolve(&catalog).is_err());
        assert_eq!(now_ms.get(), took_ms);
        assert_eq!(resolve(&catalog_of(900)).unwrap().len(), 900);
    }

    #[test]
    fn what_cannot_be_looked_up_now_is_left_to_the_next_heartbeat() {
        let expressions = Expressions::default();
        let catalog = catalog_of(2);
        let resolve = |expression: &str| {
            let mut matches =
                expressions.resolve([&expression.to_owned()], |lend| lend(&catalog), || 0);
            matches.remove(expression)
        };
        assert_eq!(resolve("log-1").unwrap().unwrap().len(), 1);
        let turns: Vec<_> = (0..RESOLVING_MAX)
            .map(|_| expressions.turn().unwrap())
            .collect();
        assert!(resolve("log-0").is_none());
        assert!(resolve("log-1").is_some(), "it is known");
        drop(turns);
        assert_eq!(resolve("log-0").unwrap().unwrap().len(), 1);
    }
}
