//! What out-of-tree modules are built against: the part of a compiled kernel's tree that kbuild reads for `M=`.

use crate::error::{Result, at};
use crate::runner::Runner;
use std::fs;
use std::path::Path;

/// The tree's name in a compiled kernel's folder.
pub(crate) const FOLDER: &str = "build";

/// Files and folders of a compiled source tree that kbuild reads when it builds an external module.
const KEPT: [&str; 7] = [
    ".config",
    "Makefile",
    "Module.symvers",
    "arch/x86/include",
    "include",
    "scripts",
    "tools/objtool/objtool",
];

/// Copies the tree for external modules out of the compiled `source`.
pub(crate) fn keep(runner: &Runner, source: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).map_err(at(to))?;
    let mut copy = runner.command("cp");
    copy.current_dir(source).args(["-a", "--parents"]).args(KEPT);
    let arch = source.join("arch/x86");
    for entry in fs::read_dir(&arch).map_err(at(&arch))? {
        let name = entry.map_err(at(&arch))?.file_name().to_string_lossy().into_owned();
        if name.starts_with("Makefile") {
            copy.arg(format!("arch/x86/{name}"));
        }
    }
    copy.arg(to);
    runner.run("keeping the tree for modules", &mut copy, |_| {})
}
