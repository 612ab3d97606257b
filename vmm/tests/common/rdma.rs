//! Guests with the mlx5 function, and the module kverbs in them.

use super::{new_file, path, run};
use guest_images::Image;
use libtest_mimic::Failed;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Host seconds that a run may take on a slow, busy machine.
const PATIENCE: &str = "1200";
const KVERBS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-images/drivers/kverbs");

/// Builds kverbs for an image, once; returns the module's file. A guest that is given it finds it as `/kverbs.ko`.
pub fn kverbs(image: &Image) -> Result<PathBuf, Failed> {
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(module) = built.get(&image.name) {
        return Ok(module.clone());
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kverbs-{}", image.name));
    let module = folder.join("kverbs.ko");
    let ran = run(&["images", "module", KVERBS, "--kernel", &image.name, "--output", path(&folder)]);
    if ran.status != 0 || ran.stdout.trim() != path(&module) {
        return Err(format!("{ran:?}").into());
    }
    built.insert(image.name.clone(), module.clone());
    Ok(module)
}

/// What a script did in a guest.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status.
    pub status: i32,
    /// Its output and error output.
    pub output: String,
    /// dma-debug's `error_count` after it; `None` if the kernel has none.
    pub error_count: Option<u64>,
    /// As `uname -r` prints it.
    pub release: String,
    /// The kernel's log with priorities, as `dmesg -r` prints it.
    pub log: String,
}

/// Without what is ordinary in the log.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, output, error_count, log, .. } = self;
        writeln!(f, "status {status}, error_count {error_count:?}, output:\n{output}")?;
        let told = |line: &&str| {
            line.contains("kverbs")
                || ["<0>", "<1>", "<2>", "<3>", "<4>"].contains(&line.get(..3).unwrap_or(""))
        };
        log.lines().filter(told).try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl Outcome {
    fn parse(text: &str) -> Option<Self> {
        let (output, rest) = text.split_once("@status ")?;
        let (status, rest) = rest.split_once("\n@errors ")?;
        let (errors, rest) = rest.split_once("\n@release ")?;
        let (release, log) = rest.split_once('\n')?;
        Some(Self {
            status: status.parse().ok()?,
            output: output.to_owned(),
            error_count: if errors.is_empty() { None } else { Some(errors.parse().ok()?) },
            release: release.to_owned(),
            log: log.to_owned(),
        })
    }
}

/// Runs a shell script in a guest: `extra` is appended to the image's kernel command line, `options` are further options of
/// `staleline run`, among them the device.
pub fn in_guest(image: &Image, extra: &str, options: &[&str], script: &str) -> Result<Outcome, Failed> {
    let cmdline = format!("{} {extra}", image.cmdline);
    let whole = format!(
        "( {script} ) 2>&1
        echo \"@status $?\"
        echo \"@errors $(cat /sys/kernel/debug/dma-api/error_count 2>/dev/null)\"
        echo \"@release $(uname -r)\"
        dmesg -r"
    );
    let (_folder, console) = new_file();
    let mut arguments =
        vec!["run", "--kernel", &image.name, "--cmdline", cmdline.trim(), "--timeout", PATIENCE];
    arguments.extend(["--console", path(&console)]);
    arguments.extend(options);
    arguments.extend(["--", "sh", "-c", &whole]);
    let ran = run(&arguments);
    match Outcome::parse(&ran.stdout) {
        Some(outcome) if ran.status == 0 => Ok(outcome),
        _ => {
            let console = std::fs::read_to_string(&console).unwrap_or_default();
            Err(format!("{ran:?}\n{console}").into())
        }
    }
}
