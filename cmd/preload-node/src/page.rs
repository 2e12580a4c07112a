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

pub(crate) const ASSETS: &[Asset] =
    &[Asset { path: "/", content_type: "text/html; charset=utf-8", content: include_str!("../page/index.html") }];
