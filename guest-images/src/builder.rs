//! Builds an image from its recipe: packages, tools, kernel, initramfs, then one rename that makes it visible.

use crate::apt::Package;
use crate::error::{Error, Result, at};
use crate::host::Host;
use crate::image::{Image, Manifest, PackageVersion, USERSPACE};
use crate::initramfs;
use crate::kernel::{self, KernelFiles, Tree, remove};
use crate::lock::Lock;
use crate::progress::{Plan, Progress};
use crate::recipe::{Estimate, KernelRecipe, Recipe, SourceKernel};
use crate::releases::Releases;
use crate::runner::Runner;
use crate::sources_list::Mirrors;
use crate::store::Layout;
use crate::tools::{self, Tools};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

/// What it costs to renew an image whose kernel is already compiled.
const INITRAMFS_ONLY: Estimate = Estimate { minutes: 1, disk_mib: 300, download_mib: 15 };

/// One build of one image. The caller holds the image's lock.
pub(crate) struct Build<'a> {
    pub host: &'a Host,
    pub layout: &'a Layout,
    pub recipe: &'a Recipe,
    pub hash: &'a str,
    pub lock: &'a Lock,
    pub progress: &'a dyn Progress,
    /// The number of the stage that runs.
    pub stage: Cell<u32>,
}

/// What the package stages leave for the others.
struct Fetched {
    kernel: Vec<Package>,
    userspace: Vec<Package>,
    tools: Tools,
}

impl Build<'_> {
    /// Builds the image.
    pub fn run(&self) -> Result<Image> {
        let (estimate, stages) = match &self.recipe.kernel {
            KernelRecipe::Source(source) if KernelFiles::open(&self.compiled(source)?).is_some() => {
                (INITRAMFS_ONLY, 2)
            }
            KernelRecipe::Source(_) => (self.recipe.estimate, 5),
            KernelRecipe::Package(_) => (self.recipe.estimate, 3),
        };
        let what = format!("image {}", self.recipe.name);
        self.logged(&what, estimate, stages, |releases| self.stages(releases))
    }

    /// Builds the image's initramfs alone, as the file `to`. Only for images whose kernel has no modules to load.
    pub fn initramfs(&self, to: &Path) -> Result<()> {
        let what = format!("the initramfs of image {}", self.recipe.name);
        self.logged(&what, INITRAMFS_ONLY, 2, |releases| {
            let packages = {
                let _lock = self.lock_packages()?;
                self.next_stage("packages");
                self.fetch_userspace(releases)?
            };
            let work = self.layout.work(&self.recipe.name);
            fs::create_dir_all(&work).map_err(at(&work))?;
            let partial = work.join("initrd.cpio");
            let (initrd, unpacked) = self.pack(releases, &packages, &work, &[])?;
            // What an interrupted build of the whole image has left there stays.
            remove(&unpacked)?;
            fs::write(&partial, initrd).map_err(at(&partial))?;
            fs::rename(&partial, to).map_err(at(to))
        })
    }

    /// Does a build's work with its plan told, its log, and its errors in the log.
    fn logged<T>(
        &self,
        what: &str,
        estimate: Estimate,
        stages: u32,
        work: impl FnOnce(&Releases) -> Result<T>,
    ) -> Result<T> {
        let mirrors = self.check_host(&estimate)?;
        let log = self.layout.log(&self.recipe.name);
        let plan = Plan { what: what.to_owned(), cost: Some(estimate), log: log.clone(), stages };
        self.progress.plan(&plan);
        let runner = Runner::new(self.host, self.lock, log)?;
        let releases =
            Releases { runner: &runner, layout: self.layout, mirrors: &mirrors, progress: self.progress };
        let result = work(&releases).map_err(|error| self.locate_full_disk(error));
        self.progress.end();
        if let Err(error) = &result {
            runner.note(&error.to_string());
        }
        result
    }

    fn next_stage(&self, title: &str) {
        self.stage.set(self.stage.get() + 1);
        self.progress.stage(self.stage.get(), title);
    }

    /// What must be there before anything is downloaded.
    fn check_host(&self, estimate: &Estimate) -> Result<Mirrors> {
        let cannot = |reason: String| -> Error {
            Error::NoPackages {
                image: self.recipe.name.clone(),
                reason,
                needs: format!(
                    "the packages {} of Debian ({})",
                    self.recipe.package_names().unwrap_or_default().join(", "),
                    self.recipe.suites.concat().join(", ")
                ),
                bring_instead: self.recipe.bring_instead.clone(),
            }
        };
        for program in ["apt-get", "apt-cache", "apt-config", "dpkg-deb"] {
            if self.host.find(program).is_none() {
                return Err(cannot(format!("this machine has no {program}")));
            }
        }
        let mirrors = self
            .host
            .debian_mirrors()
            .ok_or_else(|| cannot("this machine's apt sources name no Debian mirror".into()))?;
        self.host.require("cc", "to compile the guest's programs")?;
        if matches!(self.recipe.kernel, KernelRecipe::Source(_)) {
            self.host.require("make", "to compile the kernel")?;
        }
        let needed = estimate.disk_mib;
        let has_work = self.layout.work(&self.recipe.name).exists();
        if let Some(free_mib) =
            self.host.free_mib(&self.layout.root).filter(|free| *free < needed && !has_work)
        {
            return Err(Error::DiskFull {
                folder: self.layout.root.clone(),
                free_mib,
                needed_mib: Some(needed),
            });
        }
        Ok(mirrors)
    }

    /// A full disk is reported without figures where it is met; they are known here.
    fn locate_full_disk(&self, error: Error) -> Error {
        match error {
            Error::DiskFull { needed_mib: None, .. } => Error::DiskFull {
                folder: self.layout.root.clone(),
                free_mib: self.host.free_mib(&self.layout.root).unwrap_or(0),
                needed_mib: Some(self.recipe.estimate.disk_mib),
            },
            other => other,
        }
    }

    fn stages(&self, releases: &Releases) -> Result<Image> {
        let runner = releases.runner;
        let work = self.layout.work(&self.recipe.name);
        fs::create_dir_all(&work).map_err(at(&work))?;
        let fetched = self.fetch(releases)?;
        let partial = self.layout.partial(&self.recipe.name);
        remove(&partial)?;
        fs::create_dir_all(&partial).map_err(at(&partial))?;

        let kernel = self.kernel(releases, &fetched, &work, &partial)?;
        let (initrd, packages) = self.pack(releases, &fetched.userspace, &work, &kernel.modules)?;
        let file = partial.join("initrd.cpio");
        fs::write(&file, initrd).map_err(at(&file))?;
        if self.recipe.userspace()?.whole {
            let kept = partial.join(USERSPACE);
            fs::rename(&packages, &kept).map_err(at(&kept))?;
        }
        self.publish(runner, &fetched, kernel, &partial)?;
        remove(&work)?;
        let folder = self.layout.image(&self.recipe.name, self.hash);
        Image::open(&folder).ok_or_else(|| Error::Build {
            stage: "finishing".into(),
            reason: format!("{} is not whole", folder.display()),
            log: runner.log_path.clone(),
            tail: String::new(),
        })
    }

    /// The initramfs, and the folder in which its packages are unpacked.
    fn pack(
        &self,
        releases: &Releases,
        userspace: &[Package],
        work: &Path,
        modules: &[(String, Vec<u8>)],
    ) -> Result<(Vec<u8>, PathBuf)> {
        self.next_stage("initramfs");
        let packages = work.join("userspace");
        remove(&packages)?;
        releases.unpack(userspace, &packages)?;
        let userspace = self.recipe.userspace()?;
        Ok((initramfs::build(releases.runner, &userspace, &packages, work, modules)?, packages))
    }

    /// Package lists, downloads and host tools belong to one process at a time, because all images share them.
    fn lock_packages(&self) -> Result<Lock> {
        Lock::wait(&self.layout.lock("packages"), "the package cache", self.progress)
    }

    fn fetch_userspace(&self, releases: &Releases) -> Result<Vec<Package>> {
        let userspace = self.recipe.userspace()?;
        releases.first(&userspace.suites, |apt| {
            let packages = apt.resolve(&userspace.packages)?;
            releases.fetch(apt, &packages)?;
            Ok(packages)
        })
    }

    fn fetch(&self, releases: &Releases) -> Result<Fetched> {
        let _lock = self.lock_packages()?;
        self.next_stage("packages");
        let kernel = self.fetch_kernel(releases)?;
        let userspace = self.fetch_userspace(releases)?;
        let tools = match (kernel.first(), &self.recipe.kernel) {
            (None, _) => Tools::default(),
            (Some(_), KernelRecipe::Source(source)) => tools::provide(releases, &source.tools)?,
            (Some(_), KernelRecipe::Package(package)) => tools::provide(releases, &package.tools)?,
        };
        Ok(Fetched { kernel, userspace, tools })
    }

    /// The kernel's packages, the one that names its version first; none if the compiled kernel is already there.
    fn fetch_kernel(&self, releases: &Releases) -> Result<Vec<Package>> {
        if let KernelRecipe::Source(source) = &self.recipe.kernel
            && KernelFiles::open(&self.compiled(source)?).is_some()
        {
            return Ok(Vec::new());
        }
        releases.first(&self.recipe.suites, |apt| {
            let packages = match &self.recipe.kernel {
                KernelRecipe::Source(source) => {
                    vec![apt.newest(std::slice::from_ref(&source.package), &source.version)?.0]
                }
                KernelRecipe::Package(recipe) => {
                    let (package, stood) = apt.newest(&recipe.packages, &recipe.version)?;
                    let beside: Vec<_> = recipe.beside.iter().map(|name| name.replace('*', &stood)).collect();
                    let beside = apt.exactly(&beside, &package.version)?;
                    [vec![package], beside].concat()
                }
            };
            releases.fetch(apt, &packages)?;
            Ok(packages)
        })
    }

    /// Where the compiled kernel is kept.
    fn compiled(&self, recipe: &SourceKernel) -> Result<PathBuf> {
        Ok(self.layout.kernel(&self.recipe.name, &recipe.hash()?))
    }

    fn kernel(
        &self,
        releases: &Releases,
        fetched: &Fetched,
        work: &Path,
        image: &Path,
    ) -> Result<KernelFiles> {
        let (runner, tools) = (releases.runner, &fetched.tools);
        let nothing = || Error::Build {
            stage: "taking the kernel".into(),
            reason: "it is neither compiled nor downloaded".into(),
            log: runner.log_path.clone(),
            tail: String::new(),
        };
        match &self.recipe.kernel {
            KernelRecipe::Source(recipe) => {
                let folder = self.compiled(recipe)?;
                if let Some(package) = fetched.kernel.first() {
                    self.compile(runner, tools, recipe, package, work, &folder)?;
                }
                let kernel = KernelFiles::open(&folder).ok_or_else(nothing)?;
                kernel.link(&folder, image)?;
                Ok(kernel)
            }
            KernelRecipe::Package(recipe) => {
                self.next_stage("kernel package");
                let package = fetched.kernel.first().ok_or_else(nothing)?;
                let unpacked = work.join("kernel");
                remove(&unpacked)?;
                releases.unpack(&fetched.kernel, &unpacked)?;
                kernel::install_packaged(runner, tools, recipe, package, &unpacked, image)
            }
        }
    }

    fn compile(
        &self,
        runner: &Runner,
        tools: &Tools,
        recipe: &SourceKernel,
        package: &Package,
        work: &Path,
        folder: &Path,
    ) -> Result<()> {
        self.next_stage("kernel source");
        let downloads = self.layout.downloads();
        let source = kernel::unpack_source(runner, tools, recipe, package, &downloads, work, self.progress)?;
        kernel::check_source(recipe, package, &source)?;
        self.next_stage("kernel configuration");
        let tree = Tree::in_place(&source);
        let lost = kernel::configure(runner, tools, recipe, tree)?;
        if !lost.is_empty() {
            return Err(Error::Build {
                stage: "configuring the kernel".into(),
                reason: format!("the kernel does not accept {}", lost.join(", ")),
                log: runner.log_path.clone(),
                tail: String::new(),
            });
        }
        self.next_stage("compiling the kernel");
        kernel::compile(runner, tools, recipe, tree, self.progress)?;
        kernel::install_compiled(runner, tools, package, &source, folder)
    }

    /// Writes the manifest, then makes the image visible under its final name.
    fn publish(&self, runner: &Runner, fetched: &Fetched, kernel: KernelFiles, partial: &Path) -> Result<()> {
        let compiler = runner.output("finishing", runner.command("cc").arg("--version"))?;
        let mut files = kernel.files;
        files.insert("initrd".into(), "initrd.cpio".into());
        let manifest = Manifest {
            name: self.recipe.name.clone(),
            hash: self.hash.to_owned(),
            cmdline: self.recipe.cmdline.clone(),
            kernel_release: kernel.release,
            compiler: compiler.lines().next().unwrap_or_default().to_owned(),
            packages: std::iter::once(kernel.package)
                .chain(fetched.kernel.iter().skip(1).map(PackageVersion::from))
                .chain(fetched.userspace.iter().map(PackageVersion::from))
                .collect(),
            files,
        };
        manifest.write(partial)?;
        // The data must be on the disk before the name is: after a power failure the image is whole or absent.
        for file in manifest.files.values() {
            let path = partial.join(file);
            fs::File::open(&path).and_then(|file| file.sync_all()).map_err(at(&path))?;
        }
        let folder = self.layout.image(&self.recipe.name, self.hash);
        remove(&folder)?;
        fs::rename(partial, &folder).map_err(at(&folder))
    }
}
