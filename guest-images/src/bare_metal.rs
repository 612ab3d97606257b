//! Kernels without an operating system, one a subject, that test the machine from within.
//!
//! A kernel is one file in `bare-metal/kernels`, C or assembly, linked with everything in `bare-metal/shared` and in
//! `bare-metal/support`, which brings it to 64-bit mode. With a line `bits: 32` in its first comment it is linked with
//! `bare-metal/support32` instead, which leaves it in 32-bit protected mode. A line `run: OPTIONS` there gives options of
//! `staleline run` that it needs; several such lines are several runs. It prints a line `PASS: …` or `FAIL: …` for each check, the number of checks at the end,
//! and leaves by the debug exit port: status 1 when all have passed, 3 otherwise. The sources are read from the checkout
//! this crate was built in.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

/// C with general registers only: interrupts may come anywhere, and their stubs save nothing else.
const FLAGS: [&str; 14] = [
    "-std=gnu11",
    "-O2",
    "-g0",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffreestanding",
    "-fno-stack-protector",
    "-fno-pic",
    "-fno-asynchronous-unwind-tables",
    "-fno-tree-loop-distribute-patterns",
    "-fcf-protection=none",
    "-mno-red-zone",
    "-mgeneral-regs-only",
];
const LINK_FLAGS: [&str; 7] = [
    "-nostdlib",
    "-static",
    "-no-pie",
    "-Wl,--build-id=none",
    "-Wl,--no-warn-rwx-segments",
    "-Wl,-z,noexecstack",
    "-Wl,-z,max-page-size=4096",
];
/// Multiboot loaders want a 32-bit file, whatever the code in it.
const FORMAT: [&str; 2] = ["-O", "elf32-i386"];

/// A kernel could not be found or built.
#[derive(Debug, thiserror::Error)]
pub enum BareMetalError {
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{program} cannot be run: {source} (install gcc and binutils)")]
    NoTool { program: String, source: io::Error },
    #[error("{program} fails on kernel {kernel}:\n{output}")]
    Tool { program: String, kernel: String, output: String },
    #[error("kernel {0}: a quotation in its run line is not closed")]
    Options(String),
}

/// One kernel's source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BareMetalKernel {
    /// The file's name without its extension.
    pub name: String,
    /// The runs that it is for: options of `staleline run` besides `--kernel`. There is one at least.
    pub runs: Vec<Vec<String>>,
    /// It is code of 32 bits.
    pub legacy: bool,
    source: PathBuf,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bare-metal")
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BareMetalError + '_ {
    move |source| BareMetalError::Io { path: path.to_owned(), source }
}

/// The C and assembly files in a folder, sorted.
fn sources(folder: &Path) -> Result<Vec<PathBuf>, BareMetalError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let path = entry.map_err(at(folder))?.path();
        if path.extension().is_some_and(|extension| extension == "c" || extension == "S") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

impl BareMetalKernel {
    /// All kernels, sorted by name.
    ///
    /// # Errors
    /// [`BareMetalError`] if the sources cannot be read.
    pub fn all() -> Result<Vec<Self>, BareMetalError> {
        sources(&folder().join("kernels"))?.into_iter().map(Self::read).collect()
    }

    fn read(source: PathBuf) -> Result<Self, BareMetalError> {
        let text = fs::read_to_string(&source).map_err(at(&source))?;
        let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let comment = text.split("*/").next().unwrap_or_default();
        let lines = |start| {
            let lines = comment.lines().map(|line| line.trim_start_matches([' ', '*', '/']));
            lines.filter_map(move |line| line.strip_prefix(start))
        };
        let runs = lines("run:").map(words).collect::<Option<Vec<_>>>();
        let mut runs = runs.ok_or_else(|| BareMetalError::Options(name.clone()))?;
        if runs.is_empty() {
            runs.push(Vec::new());
        }
        let legacy = lines("bits:").next().is_some_and(|bits| bits.trim() == "32");
        Ok(Self { name, runs, legacy, source })
    }

    /// Compiles the kernel into `folder` and returns the file: a 32-bit multiboot ELF file, named as the kernel.
    ///
    /// # Errors
    /// [`BareMetalError`] with what the compiler says.
    pub fn build(&self, into: &Path) -> Result<PathBuf, BareMetalError> {
        let shared = folder().join("shared");
        let support = folder().join(if self.legacy { "support32" } else { "support" });
        let linked = into.join(format!("{}.linked", self.name));
        let output = into.join(&self.name);
        let mut compile = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
        compile.arg(if self.legacy { "-m32" } else { "-m64" }).args(FLAGS).args(LINK_FLAGS);
        compile.arg("-I").arg(&support).arg("-I").arg(&shared);
        compile.arg("-T").arg(shared.join("kernel.ld")).arg("-o").arg(&linked);
        compile.arg(&self.source).args(sources(&support)?).args(sources(&shared)?);
        self.run(&mut compile)?;
        let mut convert = Command::new("objcopy");
        self.run(convert.args(FORMAT).arg(&linked).arg(&output))?;
        fs::remove_file(&linked).map_err(at(&linked))?;
        Ok(output)
    }

    fn run(&self, command: &mut Command) -> Result<(), BareMetalError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let ran = command
            .env("LC_ALL", OsStr::new("C"))
            .output()
            .map_err(|source| BareMetalError::NoTool { program: program.clone(), source })?;
        if ran.status.success() {
            return Ok(());
        }
        let output = String::from_utf8_lossy(&ran.stderr).into_owned();
        Err(BareMetalError::Tool { program, kernel: self.name.clone(), output })
    }
}

/// Splits at blanks that are not between double quotation marks; `None` if a mark is not closed.
fn words(line: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quoted, mut started) = (Vec::new(), String::new(), false, false);
    for c in line.chars() {
        match c {
            '"' => (quoted, started) = (!quoted, true),
            ' ' | '\t' if !quoted => {
                if std::mem::take(&mut started) {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => {
                started = true;
                word.push(c);
            }
        }
    }
    if started {
        words.push(word);
    }
    (!quoted).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_split_like_a_shell_does() {
        let split = |line| words(line).unwrap();
        assert_eq!(split(" --cpus 4  --cmdline \"a b\"\t-x"), ["--cpus", "4", "--cmdline", "a b", "-x"]);
        assert_eq!(split(" --cmdline \"\""), ["--cmdline", ""]);
        assert!(split("").is_empty());
        assert!(words("\"open").is_none());
    }

    #[test]
    fn kernels_are_found_with_their_options_and_build() {
        let kernels = BareMetalKernel::all().unwrap();
        let kernel = kernels.iter().find(|kernel| kernel.name == "multiboot").unwrap();
        assert_eq!(kernel.runs, [["--memory", "64M", "--cmdline", "a=1 b"]]);
        let folder = tempfile::tempdir().unwrap();
        let file = fs::read(kernel.build(folder.path()).unwrap()).unwrap();
        assert_eq!(&file[..6], b"\x7fELF\x01\x01", "32-bit, little-endian");
    }

    #[test]
    fn what_the_compiler_says_is_passed_on() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("wrong.c");
        fs::write(&source, "/* run: --cpus 2\n * run: --cpus 3 */\nvoid main(void) { nonsense(); }\n")
            .unwrap();
        let kernel = BareMetalKernel::read(source).unwrap();
        assert_eq!(kernel.runs, [["--cpus", "2"], ["--cpus", "3"]]);
        let error = kernel.build(folder.path()).unwrap_err().to_string();
        assert!(error.contains("kernel wrong") && error.contains("nonsense"), "{error}");
    }
}
