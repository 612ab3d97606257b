//! Kernels: compiled from a source package, or taken from a binary package with their modules.

use crate::apt::Package;
use crate::error::{Error, Result, at};
use crate::image::PackageVersion;
use crate::module_tree;
use crate::modules;
use crate::progress::{Progress, Unit};
use crate::recipe::{PackageKernel, SourceCheck, SourceKernel};
use crate::runner::Runner;
use crate::tools::Tools;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const DESCRIPTION: &str = "kernel.json";

/// A kernel's files in one folder, and the modules that go into its initramfs.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct KernelFiles {
    /// As `uname -r` prints it.
    pub release: String,
    /// File names in the folder by role.
    pub files: BTreeMap<String, String>,
    /// The package it comes from.
    pub package: PackageVersion,
    /// Path in the guest and contents, in load order.
    #[serde(skip)]
    pub modules: Vec<(String, Vec<u8>)>,
}

impl KernelFiles {
    fn add(&mut self, role: &str, file: &str) {
        self.files.insert(role.to_owned(), file.to_owned());
    }

    /// Opens a compiled kernel that an earlier build has left in `folder`.
    pub fn open(folder: &Path) -> Option<Self> {
        let text = fs::read_to_string(folder.join(DESCRIPTION)).ok()?;
        let kernel: Self = serde_json::from_str(&text).ok()?;
        let whole = kernel.files.values().all(|file| folder.join(file).is_file());
        whole.then_some(kernel)
    }

    /// Makes the compiled kernel in `partial` available as `folder`.
    pub fn publish(&self, partial: &Path, folder: &Path) -> Result<()> {
        let file = partial.join(DESCRIPTION);
        let text = serde_json::to_vec(self)
            .map_err(|error| Error::Io { path: file.clone(), source: error.into() })?;
        fs::write(&file, text).map_err(at(&file))?;
        remove(folder)?;
        fs::rename(partial, folder).map_err(at(folder))
    }

    /// Puts the files of the kernel in `folder` into `image` too; they share the disk space.
    pub fn link(&self, folder: &Path, image: &Path) -> Result<()> {
        for file in self.files.values() {
            let (from, to) = (folder.join(file), image.join(file));
            if fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to).map_err(at(&to))?;
            }
        }
        Ok(())
    }
}

/// A kernel tree that is compiled: the same folder for both, or objects elsewhere (kbuild's `O=`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tree<'a> {
    pub source: &'a Path,
    /// Where what is compiled goes. Notes on the build are written beside it.
    pub objects: &'a Path,
}

impl<'a> Tree<'a> {
    pub fn in_place(source: &'a Path) -> Self {
        Self { source, objects: source }
    }
}

/// Unpacks the kernel's source into `work/source`. A tree left by an interrupted build of the same version is kept, with
/// what was compiled in it.
pub(crate) fn unpack_source(
    runner: &Runner,
    tools: &Tools,
    recipe: &SourceKernel,
    package: &Package,
    downloads: &Path,
    work: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf> {
    let stage = "unpacking the kernel source";
    let source = work.join("source");
    let stamp = work.join("source.version");
    if source.exists() && fs::read_to_string(&stamp).is_ok_and(|version| version == package.version) {
        runner.note(&format!("continuing in {}", source.display()));
        return Ok(source);
    }
    let partial = work.join("source.partial");
    let unpacked = work.join("package");
    for old in [&source, &partial, &unpacked] {
        remove(old)?;
    }
    fs::create_dir_all(&partial).map_err(at(&partial))?;
    let mut command = runner.command("dpkg-deb");
    command.arg("-x").arg(downloads.join(&package.file)).arg(&unpacked);
    runner.run(stage, &mut command, |_| {})?;

    let mut command = runner.command("tar");
    tools.apply(&mut command);
    command.arg("-xf").arg(unpacked.join(&recipe.archive)).arg("-C").arg(&partial);
    command.args(["--strip-components=1", "--checkpoint=1000", "--checkpoint-action=echo=block %u"]);
    command.args(recipe.exclude.iter().map(|pattern| format!("--exclude={pattern}")));
    command.args(exclude_architectures(&recipe.keep_arch));
    runner.run(stage, &mut command, |line| {
        if let Some(block) = line.rsplit_once("block ").and_then(|(_, number)| number.parse().ok()) {
            progress.advance(block, recipe.archive_blocks, Unit::Steps);
        }
    })?;
    remove(&unpacked)?;
    remove(&work.join("steps"))?;
    fs::rename(&partial, &source).map_err(at(&source))?;
    fs::write(&stamp, &package.version).map_err(at(&stamp))?;
    Ok(source)
}

/// Sources of the other architectures; their Kconfig files stay, some are read on every architecture.
fn exclude_architectures(keep: &str) -> Vec<String> {
    const ARCHITECTURES: [&str; 21] = [
        "alpha",
        "arc",
        "arm",
        "arm64",
        "csky",
        "hexagon",
        "loongarch",
        "m68k",
        "microblaze",
        "mips",
        "nios2",
        "openrisc",
        "parisc",
        "powerpc",
        "riscv",
        "s390",
        "sh",
        "sparc",
        "um",
        "x86",
        "xtensa",
    ];
    ARCHITECTURES
        .iter()
        .filter(|arch| **arch != keep)
        .flat_map(|arch| {
            [format!("--exclude=*/arch/{arch}/*.[chS]"), format!("--exclude=*/arch/{arch}/configs/*")]
        })
        .collect()
}

/// Fails with [`Error::CannotRaise`] if the source cannot show what the image is for.
pub(crate) fn check_source(recipe: &SourceKernel, package: &Package, source: &Path) -> Result<()> {
    match failed_check(recipe, source)? {
        None => Ok(()),
        Some(check) => Err(Error::CannotRaise {
            package: package.name.clone(),
            version: package.version.clone(),
            file: check.file.clone(),
            reason: check.reason.clone(),
        }),
    }
}

/// The first of the recipe's checks that the source does not pass.
pub(crate) fn failed_check<'a>(recipe: &'a SourceKernel, source: &Path) -> Result<Option<&'a SourceCheck>> {
    for check in &recipe.check {
        let file = source.join(&check.file);
        let text = match fs::read_to_string(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.map_err(at(&file))?,
        };
        if !holds(check, &text) {
            return Ok(Some(check));
        }
    }
    Ok(None)
}

fn holds(check: &SourceCheck, text: &str) -> bool {
    check.contains.as_ref().is_none_or(|wanted| text.contains(wanted))
        && check.lacks.as_ref().is_none_or(|unwanted| !text.contains(unwanted))
}

/// Configures the tree: `allnoconfig` with the recipe's options. Returns those that do not survive Kconfig's dependencies.
pub(crate) fn configure(
    runner: &Runner,
    tools: &Tools,
    recipe: &SourceKernel,
    tree: Tree,
) -> Result<Vec<String>> {
    let wanted = &recipe.config()?;
    let fragment = tree.objects.with_file_name("fragment.config");
    fs::write(&fragment, wanted).map_err(at(&fragment))?;
    let mut command = make(runner, tools, tree);
    command.env("KCONFIG_ALLCONFIG", &fragment).arg("allnoconfig");
    runner.run("configuring the kernel", &mut command, |_| {})?;

    let file = tree.objects.join(".config");
    let config = fs::read_to_string(&file).map_err(at(&file))?;
    Ok(lost_options(wanted, &config))
}

/// Lines of `wanted` that `config` does not have.
fn lost_options(wanted: &str, config: &str) -> Vec<String> {
    wanted
        .lines()
        .filter(|line| line.starts_with("CONFIG_") && !config.lines().any(|have| have == *line))
        .map(str::to_owned)
        .collect()
}

/// `make` in a kernel tree.
pub(crate) fn make(runner: &Runner, tools: &Tools, tree: Tree) -> std::process::Command {
    let mut command = runner.command("make");
    tools.apply(&mut command);
    command.arg("-C").arg(tree.source).arg("ARCH=x86_64");
    if tree.objects != tree.source {
        command.arg(format!("O={}", tree.objects.display()));
    }
    // The kernel's banner would otherwise carry this machine's name and the time of day.
    command.env("KBUILD_BUILD_USER", "staleline").env("KBUILD_BUILD_HOST", "staleline");
    command.env("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 2026").env("KBUILD_BUILD_VERSION", "1");
    for inherited in
        ["MAKEFLAGS", "MAKELEVEL", "MFLAGS", "KBUILD_OUTPUT", "KBUILD_VERBOSE", "O", "CROSS_COMPILE"]
    {
        command.env_remove(inherited);
    }
    command
}

/// Compiles the kernel; what an interrupted build has compiled stays compiled.
pub(crate) fn compile(
    runner: &Runner,
    tools: &Tools,
    recipe: &SourceKernel,
    tree: Tree,
    progress: &dyn Progress,
) -> Result<()> {
    let counter = tree.objects.with_file_name("steps");
    let mut steps: u64 = fs::read_to_string(&counter).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let jobs = std::thread::available_parallelism().map_or(2, usize::from);
    let mut command = make(runner, tools, tree);
    command.arg(format!("-j{jobs}")).args(["bzImage", "modules"]);
    runner.run("compiling the kernel", &mut command, |line| {
        if is_build_step(line) {
            steps += 1;
            // A lost counter only makes the percentage of a resumed build too low.
            let _ = fs::write(&counter, steps.to_string());
            progress.advance(steps, recipe.build_steps, Unit::Steps);
        }
    })
}

/// kbuild's short lines: `  CC      kernel/fork.o`.
fn is_build_step(line: &str) -> bool {
    line.strip_prefix("  ")
        .and_then(|line| line.split_whitespace().next())
        .is_some_and(|word| ["CC", "AS", "LD", "AR", "HOSTCC"].contains(&word))
}

/// Copies the compiled kernel out of the source tree and makes it available as `folder`.
pub(crate) fn install_compiled(
    runner: &Runner,
    tools: &Tools,
    package: &Package,
    source: &Path,
    folder: &Path,
) -> Result<()> {
    let partial = source.with_file_name("kernel");
    let mut kernel = copy_compiled(runner, tools, source, &partial)?;
    kernel.package = package.into();
    module_tree::keep(runner, source, &partial.join(module_tree::FOLDER))?;
    kernel.publish(&partial, folder)
}

/// Copies the compiled kernel out of the tree of `objects` into the folder `to`, which is made afresh.
pub(crate) fn copy_compiled(
    runner: &Runner,
    tools: &Tools,
    objects: &Path,
    to: &Path,
) -> Result<KernelFiles> {
    remove(to)?;
    fs::create_dir_all(to).map_err(at(to))?;
    let mut kernel = KernelFiles::default();
    let mut strip = runner.command("strip");
    tools.apply(&mut strip);
    strip.arg("--strip-all").arg("-o").arg(to.join("kernel")).arg(objects.join("vmlinux"));
    runner.run("installing the kernel", &mut strip, |_| {})?;
    kernel.add("kernel", "kernel");
    for (role, from, name) in [
        ("vmlinux", "vmlinux", "vmlinux"),
        ("bzimage", "arch/x86/boot/bzImage", "bzImage"),
        ("system_map", "System.map", "System.map"),
        ("config", ".config", "config"),
    ] {
        let from = objects.join(from);
        fs::copy(&from, to.join(name)).map_err(at(&from))?;
        kernel.add(role, name);
    }
    let release = objects.join("include/config/kernel.release");
    kernel.release = fs::read_to_string(&release).map_err(at(&release))?.trim().to_owned();
    Ok(kernel)
}

/// Takes the kernel and the wanted modules out of its unpacked packages.
pub(crate) fn install_packaged(
    runner: &Runner,
    tools: &Tools,
    recipe: &PackageKernel,
    package: &Package,
    unpacked: &Path,
    image: &Path,
) -> Result<KernelFiles> {
    let mut kernel = KernelFiles { package: package.into(), ..KernelFiles::default() };
    let parents = ["usr/lib/modules", "lib/modules"].map(|folder| unpacked.join(folder));
    let mut folders = parents.iter().filter_map(|parent| fs::read_dir(parent).ok()).flatten().flatten();
    let modules_folder = folders
        .next()
        .map(|entry| entry.path())
        .ok_or_else(|| failure(runner, format!("{} has no modules", unpacked.display())))?;
    let release = modules_folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // Kernels lie in /boot up to 6.x, beside their modules from 7.x on.
    let boot = |name: &str| {
        let places = [unpacked.join("boot").join(format!("{name}-{release}")), modules_folder.join(name)];
        places.into_iter().find(|file| file.is_file())
    };
    let vmlinuz = boot("vmlinuz")
        .ok_or_else(|| failure(runner, format!("{} has no vmlinuz of {release}", unpacked.display())))?;
    fs::copy(&vmlinuz, image.join("bzImage")).map_err(at(&vmlinuz))?;
    kernel.add("kernel", "bzImage");
    if let Some(config) = boot("config") {
        fs::copy(&config, image.join("config")).map_err(at(&config))?;
        kernel.add("config", "config");
    }
    kernel.modules = collect_modules(runner, tools, recipe, &modules_folder, &release)?;
    kernel.release = release;
    Ok(kernel)
}

fn failure(runner: &Runner, reason: String) -> Error {
    Error::Build {
        stage: "taking the kernel out of its package".into(),
        reason,
        log: runner.log_path.clone(),
        tail: String::new(),
    }
}

fn collect_modules(
    runner: &Runner,
    tools: &Tools,
    recipe: &PackageKernel,
    folder: &Path,
    release: &str,
) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = BTreeMap::new();
    index_modules(folder, &mut files)?;
    let builtin = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
    let builtin: Vec<String> =
        builtin.lines().filter_map(|line| modules::name_of(line.rsplit('/').next()?)).collect();

    let mut contents: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut broken = None;
    let order = modules::load_order(&recipe.modules, |name| {
        if builtin.iter().any(|known| known == name) {
            return Some(Vec::new());
        }
        let data = match read_module(runner, tools, files.get(name)?) {
            Ok(data) => data,
            Err(error) => {
                broken = Some(error);
                return None;
            }
        };
        let depends = modules::depends(&data)?;
        contents.insert(name.to_owned(), data);
        Some(depends)
    });
    let order = order.map_err(|name| {
        broken.unwrap_or_else(|| failure(runner, format!("kernel {release} has no usable module {name}")))
    })?;
    Ok(order
        .into_iter()
        .filter_map(|name| {
            let data = contents.remove(&name)?;
            Some((format!("lib/modules/{release}/{name}.ko"), data))
        })
        .collect())
}

fn index_modules(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let entry = entry.map_err(at(folder))?;
        let path = entry.path();
        if entry.file_type().map_err(at(&path))?.is_dir() {
            index_modules(&path, files)?;
        } else if let Some(name) = modules::name_of(&entry.file_name().to_string_lossy()) {
            files.insert(name, path);
        }
    }
    Ok(())
}

fn read_module(runner: &Runner, tools: &Tools, file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_some_and(|extension| extension == "xz") {
        let mut command = runner.command("xz");
        tools.apply(&mut command);
        let output = command.arg("-dc").arg(file).output().map_err(at(file))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        return Err(failure(runner, format!("xz cannot unpack {}", file.display())));
    }
    fs::read(file).map_err(at(file))
}

/// Removes a file or folder if it is there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let result = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{self, KernelRecipe};

    fn debug_recipe() -> SourceKernel {
        let recipe =
            recipe::all().unwrap().into_iter().find(|recipe| recipe.name == "linux-6.12-debug").unwrap();
        match recipe.kernel {
            KernelRecipe::Source(source) => source,
            KernelRecipe::Package(_) => panic!("built from source"),
        }
    }

    fn package() -> Package {
        Package {
            name: "linux-source-6.12".into(),
            version: "6.12.200-1".into(),
            uri: String::new(),
            file: String::new(),
            size: 0,
            hash: String::new(),
        }
    }

    #[test]
    fn a_source_that_cannot_raise_the_warning_is_refused() {
        let source = tempfile::tempdir().unwrap();
        let file = source.path().join("kernel/dma/debug.c");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let warning = "cacheline tracking EEXIST, overlapping mappings aren't supported";
        let check = |text: &str| {
            fs::write(&file, text).unwrap();
            check_source(&debug_recipe(), &package(), source.path())
        };
        check(&format!("}} else if (rc == -EEXIST && !(attrs & X)) {{ \"{warning}\"")).unwrap();
        let backported =
            format!("rc == -EEXIST && dma_get_cache_alignment() >= L1_CACHE_BYTES && \"{warning}\"");
        let error = check(&backported).unwrap_err();
        assert!(matches!(&error, Error::CannotRaise { file, .. } if file == "kernel/dma/debug.c"));
        assert!(error.to_string().contains("6.12.200-1"));
        assert!(matches!(check("nothing"), Err(Error::CannotRaise { .. })));
    }

    #[test]
    fn a_compiled_kernel_is_shared_with_images() {
        let folder = tempfile::tempdir().unwrap();
        let (partial, kernels, image) =
            (folder.path().join("partial"), folder.path().join("k"), folder.path().join("image"));
        fs::create_dir(&partial).unwrap();
        fs::create_dir(&image).unwrap();
        fs::write(partial.join("vmlinux"), "elf").unwrap();
        let mut kernel = KernelFiles { release: "6.12.1".into(), ..KernelFiles::default() };
        kernel.add("vmlinux", "vmlinux");
        assert!(KernelFiles::open(&kernels).is_none());
        kernel.publish(&partial, &kernels).unwrap();
        let kernel = KernelFiles::open(&kernels).unwrap();
        assert_eq!(kernel.release, "6.12.1");
        kernel.link(&kernels, &image).unwrap();
        fs::remove_dir_all(&kernels).unwrap();
        assert_eq!(fs::read_to_string(image.join("vmlinux")).unwrap(), "elf");
    }

    #[test]
    fn build_steps_and_lost_options_are_recognised() {
        assert!(is_build_step("  CC      kernel/fork.o") && is_build_step("  AR      built-in.a"));
        assert!(!is_build_step("  UPD     include/x.h") && !is_build_step("CC x") && !is_build_step(""));
        assert_eq!(
            lost_options("# note\nCONFIG_A=y\nCONFIG_B=y\n", "CONFIG_A=y\n# CONFIG_B is not set\n"),
            ["CONFIG_B=y"]
        );
    }

    #[test]
    fn an_interrupted_source_tree_of_the_same_version_is_reused() {
        let work = tempfile::tempdir().unwrap();
        let host = crate::host::Host::this_machine();
        let lock = crate::lock::Lock::wait(&work.path().join("lock"), "x", &()).unwrap();
        let runner = Runner::new(&host, &lock, work.path().join("log")).unwrap();
        let source = work.path().join("source");
        fs::create_dir_all(&source).unwrap();
        fs::write(source.join("object.o"), "compiled").unwrap();
        let unpack = || {
            unpack_source(
                &runner,
                &Tools::default(),
                &debug_recipe(),
                &package(),
                work.path(),
                work.path(),
                &(),
            )
        };
        fs::write(work.path().join("source.version"), "6.12.200-1").unwrap();
        assert_eq!(unpack().unwrap(), source);
        assert!(source.join("object.o").exists());

        fs::write(work.path().join("source.version"), "6.12.100-1").unwrap();
        assert!(
            matches!(unpack(), Err(Error::Build { .. })),
            "another version is unpacked afresh, here from no package"
        );
        assert!(!source.exists());
    }
}
