//! The files of the page.
//!
//! **Owns** which files there are, and under which paths.
//!
//! **How it works.** They are a part of the program: nothing has to be installed next to it.
//!
//! **Invariants.** The page needs nothing from elsewhere; the status server's content security policy would block it.
//!
//! **Must not** be generated.

use server::status_server::Asset;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// A file of `page/`, under its own name.
macro_rules! file {
    ($name:literal, $content_type:expr) => {
        Asset {
            path: concat!("/", $name),
            content_type: $content_type,
            content: include_str!(concat!("../page/", $name)),
        }
    };
}

pub(crate) const ASSETS: &[Asset] = &[
    Asset { path: "/", content_type: HTML, content: include_str!("../page/index.html") },
    file!("api.js", SCRIPT),
    file!("charts.js", SCRIPT),
    file!("detail.js", SCRIPT),
    file!("feed.js", SCRIPT),
    file!("icon.svg", SVG),
    file!("page.css", CSS),
    file!("page.js", SCRIPT),
    file!("regions.js", SCRIPT),
    file!("words.js", SCRIPT),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_of_the_page_is_served() {
        let dir = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/page")).unwrap();
        let files: BTreeSet<String> =
            dir.map(|entry| format!("/{}", entry.unwrap().file_name().into_string().unwrap())).collect();
        let served = ASSETS.iter().map(|asset| asset.path.replace("/index.html", "/").to_owned());
        let served: BTreeSet<String> =
            served.map(|path| if path == "/" { "/index.html".into() } else { path }).collect();
        assert_eq!(served, files);
    }
}
