//! What does not compile, and the message that names the fix: each file of `ui/` begins with the lines that the compiler's message must contain.
//!
//! The files are compiled against the library that this test was built with, so that nothing is built twice.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// The library as cargo has just built it, beside this test.
fn library(deps: &Path) -> PathBuf {
    let is_library = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("libbrooklet_streams_dsl-") && name.ends_with(".rlib")
    };
    let libraries = std::fs::read_dir(deps)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(is_library);
    libraries
        .max_by_key(|path| path.metadata().unwrap().modified().unwrap())
        .unwrap()
}

#[test]
fn mistakes_in_types_do_not_compile_and_the_message_names_the_fix() {
    let test = std::env::current_exe().unwrap();
    let deps = test.parent().unwrap();
    let library = library(deps);
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ui");
    let mut compiled = 0;
    for case in std::fs::read_dir(cases).unwrap() {
        let case = case.unwrap().path();
        let output = Command::new(option_env!("RUSTC").unwrap_or("rustc"))
            .args(["--edition=2024", "--crate-type=bin", "--emit=metadata"])
            .arg("-L")
            .arg(format!("dependency={}", deps.display()))
            .arg("--extern")
            .arg(format!("brooklet_streams_dsl={}", library.display()))
            .arg("--out-dir")
            .arg(env!("CARGO_TARGET_TMPDIR"))
            .arg(&case)
            .output()
            .unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{} compiles", case.display());
        let source = std::fs::read_to_string(&case).unwrap();
        let mut expected = source
            .lines()
            .map_while(|line| line.strip_prefix("//~ "))
            .peekable();
        assert!(
            expected.peek().is_some(),
            "{} expects no message",
            case.display()
        );
        for line in expected {
            assert!(
                message.contains(line),
                "{}: the message lacks {line:?}:\n{message}",
                case.display()
            );
        }
        compiled += 1;
    }
    assert!(compiled >= 4, "only {compiled} files in tests/ui");
}
