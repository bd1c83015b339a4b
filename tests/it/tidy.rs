//! The invariants of docs/ARCHITECTURE.md that the compiler cannot see, checked by reading the sources; and the repository's
//! housekeeping: live links in the documentation, no unfinished code, no sleeping tests.
//!
//! A finding is printed as `file:line: what is there`, with the rule and the reason above the list.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// One line of a source file that could hold code: comments are blank, and strings too unless the rule asks for them.
struct Line {
    number: usize,
    code: String,
    text: String,
    in_test: bool,
}

struct Source {
    path: String,
    lines: Vec<Line>,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Files under `folder` (a file is its own folder) with one of the extensions, by path relative to the root, sorted.
fn files(folder: &str, extensions: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![root().join(folder)];
    while let Some(path) = pending.pop() {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if path.is_dir() {
            let skipped =
                name == "target" || (name.starts_with('.') && !matches!(name, ".ci" | ".cargo"));
            if skipped && path != root() || path == root().join("data") {
                continue;
            }
            pending.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if path.is_file() && extensions.iter().any(|extension| name.ends_with(extension)) {
            found.push(
                path.strip_prefix(root())
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .replace('\\', "/"),
            );
        }
    }
    found.sort();
    found
}

fn rust_sources(folders: &[&str]) -> Vec<Source> {
    let paths = folders.iter().flat_map(|folder| files(folder, &[".rs"]));
    paths
        .map(|path| parse(&path, &fs::read_to_string(root().join(&path)).unwrap()))
        .collect()
}

/// Splits Rust into lines of code and marks those under `#[cfg(test)]`, or in a file of tests.
fn parse(path: &str, source: &str) -> Source {
    let blanked = blank_comments_and_strings(source);
    let test_file = path.starts_with("tests/")
        || path.contains("/tests/")
        || path.ends_with("/tests.rs")
        || path.ends_with("/suite.rs");
    let mut lines = Vec::new();
    // The unit tests stand at the foot of a file: from `#[cfg(test)]` before a `mod` with a body, everything is test.
    let mut in_test = test_file;
    let mut after_cfg_test = false;
    for (index, (code, text)) in blanked.lines().zip(source.lines()).enumerate() {
        if after_cfg_test && code.contains("mod ") && code.contains('{') {
            in_test = true;
        }
        after_cfg_test = code.trim_start().starts_with("#[cfg(test)]")
            || (after_cfg_test && code.trim_start().starts_with("#["));
        lines.push(Line {
            number: index + 1,
            code: code.to_owned(),
            text: text.to_owned(),
            in_test,
        });
    }
    Source {
        path: path.to_owned(),
        lines,
    }
}

/// The source with comments, strings and characters replaced by spaces; line breaks stay.
fn blank_comments_and_strings(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut out = String::with_capacity(source.len());
    let mut index = 0;
    let blank = |out: &mut String, from: usize, to: usize| {
        out.extend((from..to).map(|place| if at(place) == '\n' { '\n' } else { ' ' }));
    };
    while index < chars.len() {
        let begin = index;
        let word_before = index > 0 && (at(index - 1).is_alphanumeric() || at(index - 1) == '_');
        if at(index) == '/' && at(index + 1) == '/' {
            while index < chars.len() && at(index) != '\n' {
                index += 1;
            }
            blank(&mut out, begin, index);
        } else if at(index) == '/' && at(index + 1) == '*' {
            let mut depth = 0;
            loop {
                if at(index) == '/' && at(index + 1) == '*' {
                    depth += 1;
                    index += 2;
                } else if at(index) == '*' && at(index + 1) == '/' {
                    depth -= 1;
                    index += 2;
                } else {
                    index += 1;
                }
                if depth == 0 || index >= chars.len() {
                    break;
                }
            }
            blank(&mut out, begin, index.min(chars.len()));
        } else if !word_before && raw_string_hashes(&chars, index).is_some() {
            let (start, hashes) = raw_string_hashes(&chars, index).unwrap();
            index = start;
            while index < chars.len()
                && !(at(index) == '"' && (1..=hashes).all(|hash| at(index + hash) == '#'))
            {
                index += 1;
            }
            index = (index + 1 + hashes).min(chars.len());
            blank(&mut out, begin, index);
        } else if at(index) == '"' {
            index += 1;
            while index < chars.len() && at(index) != '"' {
                index += if at(index) == '\\' { 2 } else { 1 };
            }
            index = (index + 1).min(chars.len());
            blank(&mut out, begin, index);
        } else if at(index) == '\'' && (at(index + 1) == '\\' || at(index + 2) == '\'') {
            // A character, not a lifetime.
            index += if at(index + 1) == '\\' { 3 } else { 2 };
            while index < chars.len() && at(index) != '\'' {
                index += 1;
            }
            index = (index + 1).min(chars.len());
            blank(&mut out, begin, index);
        } else {
            out.push(at(index));
            index += 1;
        }
    }
    out
}

/// Where the text of a raw string that opens at `index` begins, and how many `#` close it.
fn raw_string_hashes(chars: &[char], index: usize) -> Option<(usize, usize)> {
    let at = |place: usize| chars.get(place).copied().unwrap_or('\0');
    let mut place = index;
    if matches!(at(place), 'b' | 'c') {
        place += 1;
    }
    if at(place) != 'r' {
        return None;
    }
    place += 1;
    let hashes = (place..).take_while(|hash| at(*hash) == '#').count();
    (at(place + hashes) == '"').then_some((place + hashes + 1, hashes))
}

/// Whether `code` has `word` as a whole path segment or run of segments: `rand` is not in `operand` or `rand_core`.
fn names(code: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let ends_in_word = word.chars().next_back().is_some_and(is_word);
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !(before.is_some_and(is_word) || ends_in_word && after.is_some_and(is_word))
    })
}

struct Findings {
    rule: &'static str,
    found: Vec<String>,
}

impl Findings {
    fn of(rule: &'static str) -> Self {
        Self {
            rule,
            found: Vec::new(),
        }
    }

    fn add(&mut self, path: &str, line: usize, what: impl std::fmt::Display) {
        self.found.push(format!("{path}:{line}: {what}"));
    }

    /// Every line of code in `sources` that names one of `words`, unless `allowed` says that it may.
    fn words(
        &mut self,
        sources: &[Source],
        words: &[&str],
        allowed: impl Fn(&Source, &Line) -> bool,
    ) {
        for source in sources {
            for line in &source.lines {
                if let Some(word) = words.iter().find(|word| names(&line.code, word))
                    && !allowed(source, line)
                {
                    self.add(
                        &source.path,
                        line.number,
                        format_args!("names `{word}`: {}", line.text.trim()),
                    );
                }
            }
        }
    }

    #[track_caller]
    fn none(self) {
        let mut message = String::new();
        for found in &self.found {
            let _ = writeln!(message, "  {found}");
        }
        assert!(self.found.is_empty(), "\n{}\n{message}", self.rule);
    }
}

/// The dependencies that a crate's manifest names, with their lines; `dev` says whether those of tests count.
fn dependencies(crate_folder: &str, dev: bool) -> Vec<(usize, String)> {
    let manifest = fs::read_to_string(root().join(crate_folder).join("Cargo.toml")).unwrap();
    let mut inside = false;
    let mut found = Vec::new();
    for (index, line) in manifest.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            let section = line.trim_matches(['[', ']']);
            inside = section != "workspace.dependencies"
                && section.ends_with("dependencies")
                && (dev || !section.ends_with("dev-dependencies"));
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            let name: String = line
                .chars()
                .take_while(|c| c.is_alphanumeric() || matches!(c, '-' | '_'))
                .collect();
            found.push((index + 1, name));
        }
    }
    found
}

const LIBRARIES: [&str; 4] = [
    "state-stores/src",
    "streams-core/src",
    "streams-dsl/src",
    "broker/src",
];

#[test]
fn the_broker_and_the_stream_crates_share_no_code() {
    let mut findings = Findings::of(
        "Invariant 1: the broker and the stream crates share no code, so that each half runs against Apache Kafka. \
         They meet on the wire and in the facade's embedded adapter.",
    );
    let streams = [
        "brooklet_state_stores",
        "brooklet_streams_core",
        "brooklet_streams_dsl",
    ];
    findings.words(
        &rust_sources(&LIBRARIES[..3]),
        &["brooklet_broker"],
        |_, _| false,
    );
    findings.words(&rust_sources(&["broker"]), &streams, |_, _| false);
    for (folder, forbidden) in [
        ("state-stores", &["brooklet-broker"][..]),
        ("streams-core", &["brooklet-broker"]),
        ("streams-dsl", &["brooklet-broker"]),
        (
            "broker",
            &[
                "brooklet-state-stores",
                "brooklet-streams-core",
                "brooklet-streams-dsl",
                "brooklet",
            ],
        ),
    ] {
        for (line, name) in dependencies(folder, true) {
            if forbidden.contains(&name.as_str()) {
                findings.add(
                    &format!("{folder}/Cargo.toml"),
                    line,
                    format_args!("depends on {name}"),
                );
            }
        }
    }
    for source in rust_sources(&["src"]) {
        let meets = matches!(
            source.path.as_str(),
            "src/embedded.rs" | "src/cluster.rs" | "src/lib.rs"
        ) || source.path.starts_with("src/embedded/");
        if !meets {
            findings.words(&[source], &["brooklet_broker"], |_, _| false);
        }
    }
    findings.none();
}

#[test]
fn state_stores_know_bytes_only() {
    let mut findings = Findings::of(
        "Invariant 2: state-stores is bytes only: no serde, no topic, no task, no Kafka. Changelog records leave through a sink trait.",
    );
    let sources = rust_sources(&["state-stores/src"]);
    let words = [
        "serde",
        "Serde",
        "Topic",
        "TopicPartition",
        "Task",
        "TaskId",
        "rdkafka",
        "kafka_wire",
        "kafka_wire_core",
    ];
    findings.words(&sources, &words, |_, line| line.in_test);
    for (line, name) in dependencies("state-stores", true) {
        let foreign = name.starts_with("serde")
            || name.contains("kafka")
            || name.starts_with("brooklet")
            || name == "tokio";
        if foreign {
            findings.add(
                "state-stores/Cargo.toml",
                line,
                format_args!("depends on {name}"),
            );
        }
    }
    findings.none();
}

#[test]
fn what_decides_uses_no_clock_thread_socket_or_chance_of_its_own() {
    let mut findings = Findings::of(
        "Invariant 3: deciding is pure. The task engine, the plan, the log and the coordinators take time, disk and randomness as \
         arguments, so that the test driver and a simulation can drive the same code.",
    );
    let pure = [
        "streams-core/src/task",
        "streams-core/src/topology",
        "streams-core/src/cache",
        "streams-core/src/typed_store",
        "streams-core/src/partitioner",
        "streams-dsl/src",
        "state-stores/src",
        "broker/src/metadata",
        "broker/src/log",
        "broker/src/coordinator",
    ];
    // A module starts as one file and becomes a folder with its second.
    let mut folders: Vec<String> = pure.iter().map(|folder| (*folder).to_owned()).collect();
    folders.extend(pure.iter().map(|folder| format!("{folder}.rs")));
    let folders: Vec<&str> = folders
        .iter()
        .map(String::as_str)
        .filter(|folder| root().join(folder).exists())
        .collect();
    let sources = rust_sources(&folders);
    assert!(
        !sources.is_empty(),
        "the folders of the engine have moved: {pure:?}"
    );
    let words = [
        "tokio",
        "std::net",
        "std::thread",
        "thread::spawn",
        "thread::sleep",
        "SystemTime::now",
        "Instant::now",
        "rand",
        "getrandom",
        "Uuid::new_v4",
    ];
    // A writer of table files beside RocksDB's own threads, which it is one of in all but name: it performs, and decides nothing.
    let writer = "state-stores/src/rocksdb/bulk.rs";
    findings.words(&sources, &words, |source, line| {
        line.in_test || source.path == writer
    });
    findings.none();
}

#[test]
fn rdkafka_and_rocksdb_are_named_in_one_folder_each() {
    let mut findings = Findings::of(
        "Invariant 4: rdkafka is named in streams-core/src/client/ only, rocksdb in state-stores/src/rocksdb/ only: a change of either \
         stays in one place.",
    );
    let sources = rust_sources(&[
        "src",
        "state-stores/src",
        "streams-core/src",
        "streams-dsl/src",
        "broker/src",
        "cli/src",
    ]);
    findings.words(&sources, &["rdkafka", "rdkafka_sys"], |source, _| {
        source.path.starts_with("streams-core/src/client")
    });
    // The crate, not the store's own module or a method of its name.
    let path = [
        "use rocksdb",
        "rocksdb::",
        "extern crate rocksdb",
        "librocksdb_sys",
    ];
    findings.words(&sources, &path, |source, line| {
        source.path.starts_with("state-stores/src/rocksdb")
            || [
                "crate::rocksdb",
                "self::rocksdb",
                "super::rocksdb",
                "brooklet_state_stores::rocksdb",
            ]
            .iter()
            .any(|own| names(&line.code, own))
            || (source.path == "state-stores/src/lib.rs" && names(&line.code, "pub use rocksdb::"))
    });
    for (folder, forbidden) in [
        (".", &["rdkafka", "rocksdb"][..]),
        ("streams-core", &["rocksdb"]),
        ("streams-dsl", &["rdkafka", "rocksdb"]),
        ("broker", &["rdkafka", "rocksdb"]),
    ] {
        for (line, name) in dependencies(folder, false) {
            if forbidden.contains(&name.trim_end_matches("-sys")) {
                findings.add(
                    &format!("{folder}/Cargo.toml"),
                    line,
                    format_args!("depends on {name}"),
                );
            }
        }
    }
    findings.none();
}

#[test]
fn streams_core_has_never_heard_of_a_kstream() {
    let mut findings = Findings::of(
        "Invariant 5: streams-core knows topologies; streams and tables are the DSL's words.",
    );
    findings.words(
        &rust_sources(&["streams-core/src"]),
        &["KStream", "KTable", "GlobalKTable", "StreamsBuilder"],
        |_, _| false,
    );
    for (line, name) in dependencies("streams-core", true) {
        if name == "brooklet-streams-dsl" {
            findings.add("streams-core/Cargo.toml", line, "depends on the DSL");
        }
    }
    for (line, name) in dependencies("streams-dsl", false) {
        if name.starts_with("brooklet")
            && name != "brooklet-streams-core"
            && name != "brooklet-state-stores"
        {
            findings.add(
                "streams-dsl/Cargo.toml",
                line,
                format_args!("depends on {name}"),
            );
        }
    }
    findings.none();
}

#[test]
fn only_the_protocol_knows_wire_versions() {
    let mut findings = Findings::of(
        "Invariant 6: frames, versions and the codec are the business of broker/src/protocol, messages are read and written in \
         broker/src/handlers, and on the client's side both in streams-core/src/client. The log, the replicas and the coordinators speak \
         their own words.",
    );
    let broker = rust_sources(&["broker/src"]);
    let codec = [
        "kafka_wire_core",
        "ApiVersion",
        "api_version",
        "request_header_version",
        "response_header_version",
    ];
    findings.words(&broker, &codec, |source, line| {
        line.in_test || source.path.starts_with("broker/src/protocol")
    });
    findings.words(&broker, &["kafka_wire"], |source, line| {
        line.in_test
            || source.path.starts_with("broker/src/protocol")
            || source.path.starts_with("broker/src/handlers")
            || names(&line.code, "pub use kafka_wire as messages")
    });
    let streams = rust_sources(&["streams-core/src", "streams-dsl/src", "state-stores/src"]);
    findings.words(&streams, &["kafka_wire", "kafka_wire_core"], |source, _| {
        source.path.starts_with("streams-core/src/client")
    });
    findings.none();
}

#[test]
fn kafkas_error_codes_stay_in_protocol_and_handlers() {
    let mut findings = Findings::of(
        "Kafka's error codes exist in broker/src/protocol and handlers; the log, the replicas and the coordinators have errors of their own, \
         which a handler translates.",
    );
    let inner = rust_sources(&[
        "broker/src/log",
        "broker/src/replica",
        "broker/src/coordinator",
        "broker/src/metadata",
    ]);
    findings.words(&inner, &["ErrorCode", "error_code"], |_, line| line.in_test);
    findings.none();
}

#[test]
fn a_handler_keeps_no_state() {
    let mut findings = Findings::of(
        "Invariant 6: a handler turns a request into an answer; what outlives the request is the coordinators', the log's or the metadata's.",
    );
    let words = [
        "static",
        "thread_local",
        "OnceLock",
        "OnceCell",
        "LazyLock",
        "AtomicBool",
        "AtomicI32",
        "AtomicI64",
        "AtomicU32",
        "AtomicU64",
        "AtomicUsize",
    ];
    let handlers = rust_sources(&["broker/src/handlers"]);
    assert!(!handlers.is_empty(), "broker/src/handlers has moved");
    // `'static` is a lifetime, not a place to keep things.
    findings.words(&handlers, &words, |_, line| {
        line.in_test || line.code.contains("'static")
    });
    findings.none();
}

#[test]
fn the_environment_is_read_at_the_edge() {
    let mut findings = Findings::of(
        "Invariant 8: configuration is read once at the edge into plain structs; a library that looks into the environment cannot be \
         configured twice in one process.",
    );
    findings.words(
        &rust_sources(&LIBRARIES),
        &["env::var", "env::var_os", "env::vars", "env::args"],
        |_, line| line.in_test,
    );
    findings.none();
}

#[test]
fn nothing_is_left_unfinished_or_ignored() {
    let mut findings = Findings::of(
        "Unfinished code and ignored tests stay out of main: assert what happens, with a FIXME, or leave it out.",
    );
    for source in rust_sources(&["."]) {
        for line in &source.lines {
            for word in ["todo!", "unimplemented!", "#[ignore"] {
                if line.code.contains(word) {
                    findings.add(&source.path, line.number, line.text.trim());
                }
            }
        }
    }
    findings.none();
}

#[test]
fn no_test_sleeps() {
    let mut findings = Findings::of(
        "A test advances the clock or waits for a condition: a sleep is slow on one machine and too short on another.",
    );
    for source in rust_sources(&["."]) {
        for line in source.lines.iter().filter(|line| line.in_test) {
            if names(&line.code, "thread::sleep") || names(&line.code, "time::sleep") {
                findings.add(&source.path, line.number, line.text.trim());
            }
        }
    }
    findings.none();
}

#[test]
fn the_repository_names_nothing_outside_itself() {
    let mut findings = Findings::of("A clone stands alone: what the project needs is in it.");
    // Built from pieces, so that this file is not its own finding.
    let outside = [["..", "shared"].join("/"), ["", "work", "shared"].join("/")];
    let extensions = [
        ".rs", ".md", ".toml", ".sh", ".yml", ".java", ".xml", "Makefile", "run",
    ];
    for path in files(".", &extensions) {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        for (index, line) in text.lines().enumerate() {
            if outside.iter().any(|place| line.contains(place.as_str())) {
                findings.add(&path, index + 1, line.trim());
            }
        }
    }
    findings.none();
}

#[test]
fn links_in_the_documentation_are_alive() {
    let mut findings =
        Findings::of("A relative link in a Markdown page leads to a file of the repository.");
    for path in files(".", &[".md"]) {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        let folder = Path::new(&path).parent().unwrap_or(Path::new(""));
        let mut in_code = false;
        for (index, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                in_code = !in_code;
            }
            if in_code {
                continue;
            }
            for link in links(line) {
                let target = link.split('#').next().unwrap_or_default();
                let elsewhere =
                    target.is_empty() || target.contains("://") || target.starts_with("mailto:");
                if !elsewhere && !root().join(folder).join(target).exists() {
                    findings.add(&path, index + 1, format_args!("{target} does not exist"));
                }
            }
        }
    }
    findings.none();
}

/// The targets of `[text](target)` in a line of Markdown.
fn links(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("](") {
        let rest = &line[at + 2..];
        if let Some(end) = rest.find(')') {
            found.push(rest[..end].split_whitespace().next().unwrap_or_default());
        }
    }
    found
}

#[test]
fn every_page_is_in_the_book() {
    let mut findings = Findings::of(
        "docs/SUMMARY.md is the book's table of contents: a page that it does not name is not in the book.",
    );
    let summary = fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    let named: Vec<&str> = summary.lines().flat_map(links).collect();
    for path in files("docs", &[".md"]) {
        let page = path.trim_start_matches("docs/");
        if page != "SUMMARY.md" && !named.contains(&page) {
            findings.add(&path, 1, "is not in docs/SUMMARY.md");
        }
    }
    findings.none();
}

#[test]
fn every_crate_documents_itself_first() {
    let mut findings =
        Findings::of("A file begins with its module comment: what question it answers.");
    for folder in [
        "src",
        "state-stores/src",
        "streams-core/src",
        "streams-dsl/src",
        "broker/src",
        "cli/src",
    ] {
        for source in rust_sources(&[folder])
            .into_iter()
            .filter(|source| !source.path.ends_with("/tests.rs"))
        {
            let first = source
                .lines
                .iter()
                .find(|line| !line.text.trim().is_empty() && !line.text.starts_with("#!["));
            if !first
                .is_some_and(|line| line.text.starts_with("//!") || line.text.starts_with("/*!"))
            {
                findings.add(&source.path, 1, "has no module comment");
            }
        }
    }
    findings.none();
}

#[test]
fn library_crates_warn_about_missing_documentation() {
    let mut findings = Findings::of("The three library crates document what they publish.");
    for path in [
        "state-stores/src/lib.rs",
        "streams-core/src/lib.rs",
        "streams-dsl/src/lib.rs",
    ] {
        let text = fs::read_to_string(root().join(path)).unwrap();
        if !text.contains("#![warn(missing_docs)]") {
            findings.add(path, 1, "lacks #![warn(missing_docs)]");
        }
    }
    findings.none();
}

mod reading {
    use super::{blank_comments_and_strings, links, names, parse};

    #[test]
    fn comments_strings_and_characters_are_blank() {
        let check = |source: &str, want: &str| {
            assert_eq!(
                blank_comments_and_strings(source).trim_end(),
                want,
                "{source}"
            )
        };
        check("a // tokio", "a");
        check("a /* b /* c */ d */ e", &format!("a {} e", " ".repeat(17)));
        check(r#"a("b \" c") + d"#, &format!("a({}) + d", " ".repeat(8)));
        check("r#\"b \" c\"# + d", &format!("{} + d", " ".repeat(10)));
        check("let c = '\"'; tokio", "let c =    ; tokio");
        check("let c = '\\''; tokio", "let c =     ; tokio");
        check("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}");
        check("for r in runs { r\"x\" }", "for r in runs {      }");
    }

    #[test]
    fn a_name_is_a_whole_word() {
        assert!(names("use rand::Rng;", "rand"));
        assert!(!names("let operand = rand_core();", "rand"));
        assert!(names("std::thread::sleep(x)", "thread::sleep"));
        assert!(!names("my_thread::sleep(x)", "thread::sleep"));
    }

    #[test]
    fn the_tests_at_the_foot_of_a_file_are_known_as_such() {
        let source = "fn a() {}\n#[cfg(test)]\nmod tests;\nfn b() {}\n#[cfg(test)]\n#[allow(clippy::unwrap_used)]\nmod more {\n fn c() {}\n}\n";
        let marks: Vec<bool> = parse("x/src/y.rs", source)
            .lines
            .iter()
            .map(|line| line.in_test)
            .collect();
        assert_eq!(
            marks,
            [false, false, false, false, false, false, true, true, true]
        );
    }

    #[test]
    fn a_link_ends_at_its_parenthesis() {
        assert_eq!(
            links("see [a](b.md#c), ![d](e.png \"title\") and `x`"),
            ["b.md#c", "e.png"]
        );
    }
}
