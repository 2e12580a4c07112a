//! Which files are scanned.
//!
//! **Owns** the walk through folders, and the names that look like logs.
//!
//! **How it works.** A file that is named is scanned whatever it is called. In a folder, and in the folders below it, those
//! with `.log` in their name are: `tikv.log`, `tikv-2024-12-23T15-03-27.079.log.gz`, `tikv_stderr.log`, `tikv.log.1`. Each
//! folder's files come in the order of their names, which puts rotated ones before the current one.
//!
//! **Invariants.** A file is scanned once, however often and by whatever way it is named.
//!
//! **Must not** follow links to folders, which may lead in circles, nor give up because one folder cannot be read.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::input::Source;

#[derive(Default)]
pub(super) struct Found {
    pub(super) sources: Vec<Source>,
    /// Of all of them together; standard input is not in it.
    pub(super) bytes: u64,
    pub(super) unreadable: Vec<Unreadable>,
}

/// Something that was to be scanned and was not, or not to its end.
#[derive(Debug, PartialEq)]
pub(super) struct Unreadable {
    pub(super) name: String,
    pub(super) error: String,
}

impl Unreadable {
    fn new(path: &Path, error: &io::Error) -> Self {
        Unreadable { name: path.display().to_string(), error: error.to_string() }
    }
}

/// Everything below `paths`; `-` is standard input.
pub(super) fn collect(paths: &[PathBuf]) -> Found {
    let mut walk = Walk::default();
    for path in paths {
        if path == Path::new("-") {
            if !walk.found.sources.contains(&Source::Stdin) {
                walk.found.sources.push(Source::Stdin);
            }
            continue;
        }
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => walk.folder(path),
            Ok(metadata) => walk.file(path, metadata.len()),
            Err(error) => walk.found.unreadable.push(Unreadable::new(path, &error)),
        }
    }
    walk.found
}

#[derive(Default)]
struct Walk {
    found: Found,
    seen: HashSet<PathBuf>,
}

impl Walk {
    fn file(&mut self, path: &Path, len: u64) {
        let identity = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if self.seen.insert(identity) {
            self.found.bytes += len;
            self.found.sources.push(Source::File(path.to_owned()));
        }
    }

    fn folder(&mut self, top: &Path) {
        let before = (self.found.sources.len(), self.found.unreadable.len(), self.seen.len());
        let mut open = vec![top.to_owned()];
        while let Some(folder) = open.pop() {
            let entries = fs::read_dir(&folder).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
            let mut paths: Vec<PathBuf> = match entries {
                Ok(entries) => entries.into_iter().map(|entry| entry.path()).collect(),
                Err(error) => {
                    self.found.unreadable.push(Unreadable::new(&folder, &error));
                    continue;
                }
            };
            paths.sort();
            let mut below = Vec::new();
            for path in paths {
                match fs::symlink_metadata(&path) {
                    Ok(metadata) if metadata.is_dir() => below.push(path),
                    Ok(_) if is_log_name(&path) => match fs::metadata(&path) {
                        Ok(metadata) if metadata.is_file() => self.file(&path, metadata.len()),
                        Ok(_) => {}
                        Err(error) => self.found.unreadable.push(Unreadable::new(&path, &error)),
                    },
                    Ok(_) => {}
                    Err(error) => self.found.unreadable.push(Unreadable::new(&path, &error)),
                }
            }
            open.extend(below.into_iter().rev());
        }
        if before == (self.found.sources.len(), self.found.unreadable.len(), self.seen.len()) {
            let error = "no file in it looks like a log (.log in its name); name the files".to_owned();
            self.found.unreadable.push(Unreadable { name: top.display().to_string(), error });
        }
    }
}

/// RocksDB calls its write-ahead logs `000123.log`: they are data.
fn is_log_name(path: &Path) -> bool {
    let Some(name) = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()) else { return false };
    name.find(".log").is_some_and(|at| !name[..at].bytes().all(|byte| byte.is_ascii_digit()))
}

/// What the files of one process have in common: the folder, and the name up to the date that rotation puts in.
pub(super) fn family(source: &Source) -> Option<(PathBuf, String)> {
    let Source::File(path) = source else { return None };
    let name = path.file_name()?.to_string_lossy().into_owned();
    let stem = name.split(['.', '-']).next()?.to_owned();
    Some((path.parent()?.to_owned(), stem))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(found: &Found, below: &Path) -> Vec<String> {
        let relative = |source: &Source| source.name().replace(&format!("{}/", below.display()), "");
        found.sources.iter().map(relative).collect()
    }

    #[test]
    fn folders_give_what_looks_like_a_log_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("b/db")).unwrap();
        for name in
            ["tikv.log", "tikv-2024-12-23.log.gz", "b/tikv.log.1", "b/tikv_stderr.log", "b/db/000012.log", "b/x.txt"]
        {
            fs::write(at(name), "x").unwrap();
        }
        let found = collect(&[dir.path().to_owned(), at("tikv.log"), at("b"), PathBuf::from("-"), PathBuf::from("-")]);
        assert_eq!(
            names(&found, dir.path()),
            ["tikv-2024-12-23.log.gz", "tikv.log", "b/tikv.log.1", "b/tikv_stderr.log", "-"]
        );
        assert_eq!(found.bytes, 4);
        assert_eq!(
            found.unreadable.iter().map(|unreadable| unreadable.name.as_str()).collect::<Vec<_>>(),
            [at("b").to_str().unwrap()],
            "all files below b are in the list already"
        );
        assert_eq!(names(&collect(&[at("b/x.txt")]), dir.path()), ["b/x.txt"], "it was named");
    }

    #[cfg(unix)]
    #[test]
    fn links_to_folders_are_not_followed_and_dead_ones_reported() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("loop.log")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("dead.log")).unwrap();
        let found = collect(&[dir.path().to_owned(), dir.path().join("absent")]);
        assert_eq!(found.sources, []);
        assert_eq!(found.unreadable.len(), 2, "{:?}", found.unreadable);
    }

    #[test]
    fn rotated_files_are_of_one_family() {
        let file = |name: &str| family(&Source::File(PathBuf::from(name)));
        assert_eq!(file("a/tikv.log"), file("a/tikv-2024-12-23T15-03-27.079.log.gz"));
        assert_ne!(file("a/tikv.log"), file("b/tikv.log"));
        assert_ne!(file("a/tikv.log"), file("a/pd.log"));
    }
}
