//! The initramfs: busybox, files of the user-space packages, our programs, the kernel's modules, our init.

use crate::command::{add_tree, init_binary};
use crate::cpio::Archive;
use crate::error::{Error, Result, at};
use crate::kernel::remove;
use crate::recipe::{self, Program, Userspace};
use crate::runner::Runner;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

const STAGE: &str = "building the initramfs";

/// Puts the archive together from the unpacked user-space packages in `packages`.
pub(crate) fn build(
    runner: &Runner,
    userspace: &Userspace,
    packages: &Path,
    work: &Path,
    modules: &[(String, Vec<u8>)],
) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["dev", "proc", "sys", "tmp", "run", "root", "etc", "bin", "sbin", "usr/bin", "usr/sbin"] {
        archive.directory(folder);
    }
    archive.character_device("dev/console", 0o600, (5, 1));
    archive.character_device("dev/null", 0o666, (1, 3));
    archive.file("staleline/init", 0o755, init_binary());
    archive.symlink("init", "staleline/init");

    let busybox = resolve(packages, &userspace.busybox)?;
    add_busybox(runner, &mut archive, &busybox, &userspace.busybox)?;
    if userspace.whole {
        for path in &userspace.exclude {
            remove(&packages.join(path))?;
        }
        add_tree(&mut archive, packages, "")?;
    }
    let mut added = BTreeMap::new();
    for path in &userspace.files {
        match added.entry(resolve(packages, path)?) {
            // Two names of one file stay one file: the dynamic linker must not load a library twice.
            Entry::Occupied(first) => archive.symlink(path, &format!("/{}", first.get())),
            Entry::Vacant(entry) => {
                add_file(&mut archive, entry.key(), path)?;
                entry.insert(path);
            }
        }
    }
    for program in &userspace.program {
        let binary = compile(runner, program, packages, work)?;
        add_file(&mut archive, &binary, &program.to)?;
    }
    for text in &userspace.text {
        archive.file(&text.to, 0o644, text.content.as_bytes());
    }
    if !modules.is_empty() {
        let mut list = String::new();
        for (path, data) in modules {
            archive.file(path, 0o644, data);
            list.push('/');
            list.push_str(path);
            list.push('\n');
        }
        archive.file("staleline/modules", 0o644, list.as_bytes());
    }
    Ok(archive.finish())
}

fn add_file(archive: &mut Archive, from: &Path, to: &str) -> Result<()> {
    let data = fs::read(from).map_err(at(from))?;
    let mode = fs::metadata(from).map_err(at(from))?.permissions().mode();
    archive.file(to, if mode & 0o111 == 0 { 0o644 } else { 0o755 }, &data);
    Ok(())
}

/// busybox and a link for each of its applets, as it lists them itself.
fn add_busybox(runner: &Runner, archive: &mut Archive, busybox: &Path, to: &str) -> Result<()> {
    add_file(archive, busybox, to)?;
    let list = runner.output(STAGE, runner.command(&busybox.to_string_lossy()).arg("--list-full"))?;
    for applet in list.lines().filter(|applet| *applet != to && !applet.is_empty()) {
        archive.symlink(applet, &format!("/{to}"));
    }
    Ok(())
}

/// Compiles one of our programs against the libraries of the unpacked packages.
fn compile(runner: &Runner, program: &Program, packages: &Path, work: &Path) -> Result<PathBuf> {
    let mut command = runner.command("cc");
    command.args(["-std=gnu11", "-O2", "-Wall", "-Wextra"]);
    let folder = work.join("programs");
    for name in &program.sources {
        let source = folder.join(name);
        let parent = source.parent().unwrap_or(&folder);
        fs::create_dir_all(parent).map_err(at(parent))?;
        fs::write(&source, recipe::program_source(name)?).map_err(at(&source))?;
        if name.ends_with(".c") {
            command.arg(&source);
        }
    }
    let name = Path::new(&program.to).file_name().unwrap_or_default();
    let output = work.join(name);
    command.arg("-o").arg(&output).arg("-I").arg(&folder);
    command.arg("-I").arg(packages.join("usr/include"));
    command.arg("-L").arg(packages.join("usr/lib/x86_64-linux-gnu"));
    command.args(program.libraries.iter().map(|library| format!("-l{library}")));
    // The libraries' own dependencies are the guest's, not this machine's.
    command.arg("-Wl,--allow-shlib-undefined");
    runner.run(&format!("compiling {}", name.display()), &mut command, |_| {})?;
    Ok(output)
}

/// The file behind `path` in an unpacked root: symbolic links, also absolute ones, are followed inside that root.
pub(crate) fn resolve(root: &Path, path: &str) -> Result<PathBuf> {
    let mut at_path = root.to_owned();
    let mut rest: Vec<String> = components(Path::new(path));
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if part == ".." {
            if at_path != root {
                at_path.pop();
            }
            continue;
        }
        let next = at_path.join(&part);
        let meta = fs::symlink_metadata(&next).map_err(at(&next))?;
        if !meta.is_symlink() {
            at_path = next;
            continue;
        }
        links += 1;
        if links > 40 {
            let source = std::io::Error::other("too many symbolic links");
            return Err(Error::Io { path: next, source });
        }
        let target = fs::read_link(&next).map_err(at(&next))?;
        if target.is_absolute() {
            at_path = root.to_owned();
        }
        rest.extend(components(&target));
    }
    Ok(at_path)
}

/// The path's parts, last first.
fn components(path: &Path) -> Vec<String> {
    path.components()
        .rev()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
            Component::ParentDir => Some("..".to_owned()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_inside_the_root() {
        let root = tempfile::tempdir().unwrap();
        let lib = root.path().join("lib/x86_64-linux-gnu");
        fs::create_dir_all(&lib).unwrap();
        fs::create_dir_all(root.path().join("lib64")).unwrap();
        fs::write(lib.join("ld.so"), "x").unwrap();
        symlink("/lib/x86_64-linux-gnu/ld.so", root.path().join("lib64/ld.so")).unwrap();
        symlink("../x86_64-linux-gnu/ld.so", lib.join("up.so")).unwrap();
        symlink("../../../../../lib/x86_64-linux-gnu/ld.so", lib.join("out.so")).unwrap();
        symlink("loop", root.path().join("loop")).unwrap();
        for path in ["lib64/ld.so", "lib/x86_64-linux-gnu/up.so", "lib/x86_64-linux-gnu/out.so"] {
            assert_eq!(resolve(root.path(), path).unwrap(), lib.join("ld.so"), "{path}");
        }
        assert!(resolve(root.path(), "loop").is_err());
        assert!(resolve(root.path(), "absent").unwrap_err().to_string().contains("absent"));
    }
}
