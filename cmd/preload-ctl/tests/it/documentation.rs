//! What docs/preload-ctl.md says exists, and what exists is in there.

use std::collections::BTreeSet;

use crate::{ctl, stdout};

const MANUAL: &str = include_str!("../../../../docs/preload-ctl.md");

/// The names in the list of commands that `args --help` prints.
fn commands_of(args: &[&str]) -> Vec<String> {
    let output = ctl(args).arg("--help").output().unwrap();
    let help = stdout(&output);
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed.filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// The program's commands, each with its own ones: `config set`.
fn commands() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for command in commands_of(&[]) {
        let below = commands_of(&[&command]);
        all.extend(below.iter().map(|below| format!("{command} {below}")));
        // `config` alone does nothing, `cache` alone does.
        if below.is_empty() || command == "cache" {
            all.insert(command);
        }
    }
    all
}

#[test]
fn each_command_has_a_section_and_each_section_a_command() {
    let headings = MANUAL.lines().filter_map(|line| line.strip_prefix("## "));
    let documented: BTreeSet<String> =
        headings.flat_map(|heading| heading.split('`').skip(1).step_by(2)).map(str::to_owned).collect();
    assert_eq!(documented, commands());
}

#[test]
fn each_example_is_a_command_line_with_options_that_exist() {
    let mut count = 0;
    for line in MANUAL.lines().filter_map(|line| line.strip_prefix("    ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        for at in (0..words.len()).filter(|at| words[*at] == "preload-ctl") {
            count += 1;
            let words = &words[at + 1..];
            let command: Vec<&str> = words.iter().copied().filter(|word| !word.starts_with('-')).take(2).collect();
            let known = commands();
            assert!(
                command.iter().any(|word| known.iter().any(|known| known.split(' ').next() == Some(*word))),
                "{line}"
            );
            let all_help = [command.first().map_or(&[][..], std::slice::from_ref), &command[..]];
            let help: String =
                all_help.iter().map(|args| stdout(&ctl(*args).arg("--help").output().unwrap()).to_owned()).collect();
            for option in
                words.iter().take_while(|word| **word != "|" && **word != "&&").filter(|word| word.starts_with("--"))
            {
                let option = option.split('=').next().unwrap();
                assert!(help.contains(option), "{option} in {line}");
            }
        }
    }
    assert!(count >= 20, "{count}");
}

#[test]
fn each_signature_is_listed() {
    let data: toml::Value = toml::from_str(include_str!("../../src/scan/signatures.toml")).unwrap();
    for signature in data["signature"].as_array().unwrap() {
        let id = signature["id"].as_str().unwrap();
        assert!(MANUAL.contains(&format!("`{id}`")), "docs/preload-ctl.md lacks {id}");
    }
}

#[test]
fn exit_codes_of_the_help_are_those_of_the_manual() {
    let help = ctl(["--help"]).output().unwrap();
    let codes = stdout(&help).lines().skip_while(|line| *line != "Exit codes:").skip(1);
    let codes: Vec<_> =
        codes.take_while(|line| !line.is_empty()).map(|line| line.trim().split_once("  ").unwrap()).collect();
    assert_eq!(codes.len(), 6);
    for (code, meaning) in codes {
        assert!(MANUAL.contains(&format!("| {code} | {meaning} |")), "docs/preload-ctl.md lacks {code}: {meaning}");
    }
}

#[test]
fn completions_are_there_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = ctl(["completions", shell]).output().unwrap();
        assert!(output.status.success());
        assert!(stdout(&output).contains("transfer-leader"), "{shell}");
        assert!(!stdout(&output).contains("PRELOAD_TOKEN="), "{shell}");
    }
}
