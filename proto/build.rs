//! Compiles the `.proto` files of this folder with protox, so that no `protoc` is needed on the machine.

use std::{env, fs, io, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("proto");
    println!("cargo:rerun-if-changed=proto");
    let mut files = Vec::new();
    for entry in fs::read_dir(root.join("vos"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    files.sort();
    let descriptors = protox::compile(&files, [&root]).map_err(io::Error::other)?;
    prost_build::Config::new().include_file("generated.rs").bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
