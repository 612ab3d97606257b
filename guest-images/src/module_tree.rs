//! What out-of-tree modules are built against: of a kernel compiled here, the part of its tree that kbuild reads for `M=`;
//! of a packaged kernel, its headers packages.

use crate::error::{Error, Result, at};
use crate::image::Image;
use crate::kernel::remove;
use crate::releases::Releases;
use crate::runner::Runner;
use std::fs;
use std::path::{Path, PathBuf};

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

/// Unpacks the headers packages of a packaged kernel into `folder` and returns the tree in it.
pub(crate) fn from_headers(
    releases: &Releases,
    suites: &[Vec<String>],
    image: &Image,
    folder: &Path,
) -> Result<PathBuf> {
    let release = &image.manifest.kernel_release;
    let version = image.manifest.packages.first().map(|package| package.version.clone()).unwrap_or_default();
    let headers = format!("linux-headers-{release}");
    let partial = folder.with_file_name(format!(".{release}.partial"));
    remove(&partial)?;
    let packages = releases.first(suites, |apt| {
        let mut packages = apt.exactly(std::slice::from_ref(&headers), &version)?;
        releases.fetch(apt, &packages)?;
        let depends = releases.field(&packages, "Depends")?;
        packages.extend(apt.exactly(&parts_of(&depends), &version)?);
        releases.fetch(apt, &packages)?;
        Ok(packages)
    })?;
    releases.unpack(&packages, &partial)?;
    relocate(releases.runner, &partial, folder, &headers)?;
    remove(folder)?;
    fs::rename(&partial, folder).map_err(at(folder))?;
    Ok(tree_in(folder, &headers))
}

/// The tree of `release` in a folder that [`from_headers`] has filled, if it is there.
pub(crate) fn find(folder: &Path, release: &str) -> Option<PathBuf> {
    let tree = tree_in(folder, &format!("linux-headers-{release}"));
    tree.is_dir().then_some(tree)
}

fn tree_in(folder: &Path, headers: &str) -> PathBuf {
    folder.join("usr/src").join(headers)
}

/// The packages that hold the rest of a headers package's tree: the headers common to all flavours, and kbuild's programs.
fn parts_of(depends: &str) -> Vec<String> {
    depends
        .split(',')
        .filter_map(|dependency| dependency.split_whitespace().next())
        .filter(|name| name.starts_with("linux-headers-") || name.starts_with("linux-kbuild-"))
        .map(str::to_owned)
        .collect()
}

/// Makes the tree work where it is, with this machine's compiler: packages expect to lie in `/usr/src` and name the compiler
/// that built the kernel.
fn relocate(runner: &Runner, partial: &Path, folder: &Path, headers: &str) -> Result<()> {
    let tree = tree_in(partial, headers);
    let edit = |name: &str, change: &dyn Fn(&str) -> String| {
        let file = tree.join(name);
        let text = fs::read_to_string(&file).map_err(at(&file))?;
        fs::write(&file, change(&text)).map_err(at(&file))
    };
    edit("Makefile", &|text| text.replace("/usr/src/", &format!("{}/usr/src/", folder.display())))?;
    edit(".kernelvariables", &|text| with_compiler(text, |gcc| runner.host.find(gcc).is_some()))?;
    // With it kbuild would want pahole, to give modules type information that Linux loads them without.
    remove(&tree.join("vmlinux"))?;

    // Without arguments it prints how it is used, if it starts at all. Debian's is a wrapper that starts the one for SRCARCH.
    let mut objtool = runner.command(&tree.join("tools/objtool/objtool").to_string_lossy());
    objtool.env("SRCARCH", "x86");
    match runner.output("trying the tree's programs", &mut objtool) {
        Err(Error::Build { stage, tail, log, .. }) if tail.contains("GLIBC_") => Err(Error::Build {
            stage,
            reason: format!("{headers} is made for a newer Debian than this machine's"),
            log,
            tail,
        }),
        _ => Ok(()),
    }
}

/// Debian's `.kernelvariables` with `gcc-NN` replaced by `gcc` if the machine does not have it: kbuild only warns.
fn with_compiler(variables: &str, exists: impl Fn(&str) -> bool) -> String {
    let version = |line: &str| -> Option<String> {
        let (_, digits) = line.strip_prefix("CC =")?.rsplit_once("gcc-")?;
        Some(format!("gcc-{}", digits.trim()))
    };
    let mut text = String::new();
    for line in variables.lines() {
        match version(line).filter(|gcc| !exists(gcc) && !exists(&format!("x86_64-linux-gnu-{gcc}"))) {
            Some(gcc) => text.push_str(&line.replace(&gcc, "gcc")),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_headers_package_are_its_headers_and_kbuild() {
        let depends = "linux-base (>= 4.12~), linux-headers-6.12.1+deb12-common (= 6.12.1-1), linux-image-6.12.1 | x, \
                       linux-kbuild-6.12.1+deb12, gcc-12";
        assert_eq!(parts_of(depends), ["linux-headers-6.12.1+deb12-common", "linux-kbuild-6.12.1+deb12"]);
    }

    #[test]
    fn an_absent_compiler_is_replaced_by_the_machines_own() {
        let text = "override ARCH = x86\nCC = $(CCACHE) $(CROSS_COMPILE)gcc-14\nX = gcc-14\n";
        assert_eq!(with_compiler(text, |_| true), text);
        let replaced = with_compiler(text, |_| false);
        assert_eq!(replaced, "override ARCH = x86\nCC = $(CCACHE) $(CROSS_COMPILE)gcc\nX = gcc-14\n");
    }
}
