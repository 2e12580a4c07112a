//! What the documents refer to exists, and the two READMEs say the same.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All Markdown files for readers of the repository.
fn documents() -> Vec<PathBuf> {
    let in_dir = |dir: PathBuf| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let mut paths = in_dir(root().to_owned());
    paths.extend(in_dir(root().join("docs")));
    paths.extend(in_dir(root().join("fail_points")));
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.sort();
    assert!(paths.len() >= 8, "{paths:?}");
    paths
}

/// The text without fenced blocks, in which nothing is a link or a heading.
fn prose(text: &str) -> String {
    text.split("\n```").step_by(2).collect()
}

/// Where links and images lead.
fn targets(text: &str) -> Vec<String> {
    let rest = text.split("](").skip(1);
    rest.filter_map(|rest| rest.split(')').next()).map(str::to_owned).collect()
}

/// What a heading is called in links to it.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let slug = |heading: &str| -> String {
        let kept = heading.trim_start_matches('#').trim().chars();
        let kept = kept.filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(slug).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut links = 0;
    for document in documents() {
        for target in targets(&prose(&read(&document))) {
            if target.contains("://") {
                continue;
            }
            links += 1;
            let (path, anchor) = target.split_once('#').map_or((target.as_str(), None), |(path, to)| (path, Some(to)));
            let file = if path.is_empty() { document.clone() } else { document.parent().unwrap().join(path) };
            assert!(file.exists(), "{}: {target} does not exist", document.display());
            if let Some(anchor) = anchor {
                assert!(anchors(&prose(&read(&file))).contains(anchor), "{}: {target}", document.display());
            }
        }
    }
    assert!(links > 40, "only {links} links were found");
}

/// What stands in `code` of a text, and the lines of its blocks.
fn code(text: &str) -> Vec<String> {
    let spans = prose(text);
    let spans = spans.split('`').skip(1).step_by(2).map(|span| span.split_whitespace().collect::<Vec<_>>().join(" "));
    let indented = text.lines().filter_map(|line| line.strip_prefix("    "));
    let fenced: String = text.split("\n```").skip(1).step_by(2).collect();
    let block_lines = indented.map(str::to_owned).chain(fenced.lines().map(str::to_owned));
    // A remark behind a command belongs to the language.
    spans.chain(block_lines.map(|line| line.split("  #").next().unwrap_or_default().trim().to_owned())).collect()
}

/// The commands of a text, without what is shown of their output.
fn commands(text: &str) -> BTreeSet<String> {
    let programs = ["make", "preload-node", "preload-ctl", "preload-bench", "cargo", ".ci/run", "ARGS=", "SCENARIO="];
    let is_command = |code: &String| {
        let word = code.split(' ').next().unwrap_or_default();
        programs.iter().any(|program| word == *program || (program.ends_with('=') && word.starts_with(program)))
    };
    code(text).into_iter().filter(is_command).filter(|code| !code.ends_with(':') && !code.contains(": ")).collect()
}

#[test]
fn readmes_in_both_languages_name_the_same() {
    let (english, chinese) = (read(&root().join("README.md")), read(&root().join("README.zh-CN.md")));
    assert!(commands(&english).len() > 8, "{:?}", commands(&english));
    assert_eq!(commands(&english), commands(&chinese));

    let links = |text: &str| -> BTreeSet<String> {
        let own = ["README.md", "README.zh-CN.md"];
        let to_others = |target: &String| !own.iter().any(|name| target.starts_with(name));
        targets(&prose(text)).into_iter().filter(to_others).collect()
    };
    assert_eq!(links(&english), links(&chinese));
    let headings = |text: &str| prose(text).lines().filter(|line| line.starts_with('#')).count();
    assert_eq!(headings(&english), headings(&chinese));
    // The first two cells: keys with their defaults, paths.
    let rows = |text: &str| -> Vec<String> {
        let rows = text.lines().filter(|line| line.starts_with("| `"));
        rows.map(|row| row.split('|').nth(1).unwrap_or_default().trim().to_owned()).collect()
    };
    assert_eq!(rows(&english), rows(&chinese));
    assert!(english.contains("](README.zh-CN.md)") && chinese.contains("](README.md)"));
}

#[test]
fn every_make_target_that_is_named_exists() {
    let makefile = read(&root().join("Makefile"));
    let mut named = 0;
    for document in documents() {
        for command in code(&read(&document)).iter().filter_map(|code| code.strip_prefix("make ")) {
            let Some(target) = command.split(' ').find(|word| !word.contains('=')) else { continue };
            named += 1;
            assert!(makefile.contains(&format!("\n{target}:")), "{}: make {target}", document.display());
        }
    }
    assert!(named > 10, "only {named} were found");
}
