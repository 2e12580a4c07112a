//! Takes the documentation of the configuration's keys from the doc comments of the structs that hold them, so that it
//! is written once.

use std::{env, fmt::Write as _, fs, path::Path};

use syn::{Attribute, Expr, Fields, Item, Lit, Meta};

/// A section, the struct that holds its keys, and the file that has it.
const SECTIONS: [(&str, &str, &str); 9] = [
    ("node", "NodeSection", "src/config/sections.rs"),
    ("server", "ServerSection", "src/config/sections.rs"),
    ("security", "SecuritySection", "src/config/sections.rs"),
    ("log", "LogSection", "src/config/sections.rs"),
    ("raftstore", "Config", "../raftstore/src/store/config.rs"),
    ("preload", "Config", "../../src/config.rs"),
    ("in-memory-engine", "RegionCacheEngineConfig", "../in_memory_engine/src/config.rs"),
    ("placement", "PlacementSection", "src/config/sections.rs"),
    ("engine", "EngineConfig", "src/config/sections.rs"),
];

fn main() {
    let mut table = String::from("&[\n");
    for (section, name, path) in SECTIONS {
        println!("cargo::rerun-if-changed={path}");
        let source = fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {path}: {error}"));
        let file = syn::parse_file(&source).unwrap_or_else(|error| panic!("cannot parse {path}: {error}"));
        let found = file.items.iter().find_map(|item| match item {
            Item::Struct(found) if found.ident == name => Some(found),
            _ => None,
        });
        let found = found.unwrap_or_else(|| panic!("{path} has no struct {name}"));
        let Fields::Named(fields) = &found.fields else { panic!("{name} has no named fields") };
        for field in &fields.named {
            let key = field.ident.as_ref().expect("a named field has a name").to_string().replace('_', "-");
            let doc = doc_of(&field.attrs);
            assert!(!doc.is_empty(), "{section}.{key} has no documentation");
            writeln!(table, "    KeyDoc {{ section: {section:?}, key: {key:?}, doc: {doc:?} }},").expect("memory");
        }
    }
    table.push_str("]\n");
    let out = env::var("OUT_DIR").expect("cargo sets it");
    fs::write(Path::new(&out).join("config_docs.rs"), table).expect("the output directory can be written to");
}

/// The doc comment, a line per line of the source.
fn doc_of(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(meta) if meta.path.is_ident("doc") => match &meta.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(line) => Some(line.value()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    let lines: Vec<String> = lines.map(|line| line.strip_prefix(' ').unwrap_or(&line).to_owned()).collect();
    lines.join("\n")
}
