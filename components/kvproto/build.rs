//! Generates the wire types from `proto/*.proto`, without protoc, and gives fields called `type` the accessors that
//! TiKV's generator gives them (`get_type` instead of `get_field_type`).

use std::{env, fs, path::PathBuf};

const PROTOS: [&str; 4] = ["metapb", "errorpb", "raft_serverpb", "raft_cmdpb"];

fn main() {
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    protobuf_codegen_pure::Codegen::new()
        .out_dir(&out_dir)
        .inputs(PROTOS.map(|name| format!("proto/{name}.proto")))
        .includes(["proto", "proto/include"])
        .run()
        .expect("the .proto files generate");

    for name in PROTOS {
        let path = out_dir.join(format!("{name}.rs"));
        let code = fs::read_to_string(&path).expect("the generator wrote this file");
        // `include!` takes no inner attributes; the crate allows what they allowed.
        let code: String = code
            .lines()
            .filter(|line| !line.starts_with("#![") && !line.starts_with("//!"))
            .map(|line| line.replace("_field_type(", "_type(") + "\n")
            .collect();
        fs::write(&path, code).expect("OUT_DIR is writable");
        println!("cargo::rerun-if-changed=proto/{name}.proto");
    }
    println!("cargo::rerun-if-changed=proto/include/eraftpb.proto");
    println!("cargo::rerun-if-changed=build.rs");
}
