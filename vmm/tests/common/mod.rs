//! Running the built program, and the smallest guests there are.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod guest;
pub mod session;
pub mod suite;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::{NamedTempFile, TempDir};

/// The program under test, without standard input. A run is by the software engine, wherever the test runs, unless it
/// names another.
pub fn staleline(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_staleline"));
    let mut arguments = arguments.to_vec();
    if arguments.first() == Some(&"run") && !arguments.contains(&"--engine") {
        arguments.splice(1..1, ["--engine", "soft"]);
    }
    command.args(arguments).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// What a finished run left.
#[derive(Debug)]
pub struct Ran {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().expect("the program ends by itself"),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs the program to its end.
pub fn run(arguments: &[&str]) -> Ran {
    staleline(arguments).output().expect("the program starts").into()
}

/// A file with `bytes`.
pub fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("temporary files can be made");
    file.write_all(bytes).expect("temporary files can be written");
    file
}

/// Where tiny guests are loaded.
pub const LOAD_ADDRESS: u64 = 0x100_0000;

/// An ELF kernel without PVH note, entered in 64-bit mode with memory mapped one to one: `code` and a page of stack-to-be.
pub fn bare_kernel(code: &[u8]) -> NamedTempFile {
    let mut image = vec![0; 0x1000];
    image[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    image[16..20].copy_from_slice(&[2, 0, 62, 0]);
    image[24..32].copy_from_slice(&LOAD_ADDRESS.to_le_bytes());
    image[32..40].copy_from_slice(&64_u64.to_le_bytes());
    image[54..58].copy_from_slice(&[56, 0, 1, 0]);
    let header = [
        (0, 1 | 7 << 32),
        (8, 0x1000),
        (16, LOAD_ADDRESS),
        (24, LOAD_ADDRESS),
        (32, code.len() as u64),
        (40, code.len() as u64 + 0x2000),
        (48, 0x1000),
    ];
    for (at, value) in header {
        image[64 + at..72 + at].copy_from_slice(&u64::to_le_bytes(value));
    }
    image.extend_from_slice(code);
    file(&image)
}

/// Code for a tiny guest: mov dx, port; mov al, value; out dx, al.
pub fn out(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xba, low, high, 0xb0, value, 0xee]
}

/// The path as the program takes it.
pub fn path(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// A folder and a file in it that does not exist yet.
pub fn new_file() -> (TempDir, PathBuf) {
    let folder = TempDir::new().expect("temporary folders can be made");
    let path = folder.path().join("file");
    (folder, path)
}

/// A member of the JSON in a `--status` file.
pub fn status_member(path: &Path, name: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(path).expect("the status file is there");
    let status: serde_json::Value = serde_json::from_str(&text).expect("the status file is JSON");
    status.get(name).cloned().unwrap_or(serde_json::Value::Null)
}
