//! The command's help teaches: what each subcommand does, its options, and what is refused.
//!
//! Having an integration test also makes `cargo test` build the command itself, which the tests that cross crates start.

use std::process::{Command, Output};

fn brooklet(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_brooklet"))
        .args(arguments)
        .output()
        .expect("the command starts")
}

fn help_of(arguments: &[&str]) -> String {
    let output = brooklet(arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("help is text")
}

#[test]
fn every_subcommand_is_in_the_help_and_explains_itself() {
    let help = help_of(&["--help"]);
    for subcommand in [
        "broker",
        "topic",
        "produce",
        "consume",
        "group",
        "transaction",
        "config",
        "log",
        "perf",
        "topology",
    ] {
        assert!(
            help.lines()
                .any(|line| line.trim_start().starts_with(subcommand)),
            "{subcommand} is not in:\n{help}"
        );
        let own = help_of(&[subcommand, "--help"]);
        let first = own.lines().next().unwrap_or_default();
        assert!(
            first.len() > 20 && own.contains(&format!("Usage: brooklet {subcommand}")),
            "{subcommand} does not explain itself:\n{own}"
        );
    }
    assert!(
        help.contains("brooklet broker --data"),
        "the help has a first round to copy:\n{help}"
    );
}

#[test]
fn a_word_that_is_not_a_subcommand_is_refused_by_name() {
    let output = brooklet(&["bork"]);
    assert!(!output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("bork"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
