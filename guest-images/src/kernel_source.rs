//! Kernels from a source tree of the user's own: compiled beside the tree with a recipe's configuration, again only as far as
//! the tree has changed, and kept.

use crate::error::{Error, Result, at};
use crate::host::Host;
use crate::image::PackageVersion;
use crate::kernel::{self, KernelFiles, Tree, remove};
use crate::lock::Lock;
use crate::progress::{Plan, Progress};
use crate::recipe::{Estimate, Recipe, SourceKernel, hash_parts};
use crate::releases::Releases;
use crate::runner::Runner;
use crate::store::Layout;
use crate::tools::{self, Tools};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

/// Kernels that are kept of one tree: those built last.
const KEPT: usize = 4;
/// In a kernel's folder: what it was compiled from, if that has a name.
const IDENTITY: &str = "identity";
/// Beside the objects: whether a build has come to its end there.
const COMPLETE: &str = "complete";
/// In the folder of a tree's kernels: the tree's path, for people who look into the cache.
const ORIGIN: &str = "tree";

/// A Linux source tree of the user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelTree {
    /// Absolute, without symbolic links.
    folder: PathBuf,
    version: String,
}

impl KernelTree {
    /// The tree in `folder`, which must have what an x86 build out of tree needs.
    pub fn open(folder: &Path) -> Result<Self> {
        let refuse = |reason: &str| Error::NoKernelTree { folder: folder.to_owned(), reason: reason.into() };
        let absolute = fs::canonicalize(folder).map_err(at(folder))?;
        let makefile = fs::read_to_string(absolute.join("Makefile")).unwrap_or_default();
        let version =
            version_of(&makefile).ok_or_else(|| refuse("it has no Makefile with VERSION and PATCHLEVEL"))?;
        for wanted in ["Kconfig", "arch/x86/Makefile", "init/main.c"] {
            if !absolute.join(wanted).is_file() {
                return Err(refuse(&format!("it has no {wanted}")));
            }
        }
        // kbuild splits its arguments at blanks and takes a colon for a rule.
        if absolute.as_os_str().as_bytes().iter().any(|byte| byte.is_ascii_whitespace() || *byte == b':') {
            return Err(refuse("kbuild cannot work with a path that has blanks or colons"));
        }
        // What kbuild itself looks for before it builds out of tree.
        for left in [".config", "include/config", "arch/x86/include/generated"] {
            if absolute.join(left).exists() {
                return Err(Error::TreeBuiltInPlace { folder: absolute, left });
            }
        }
        Ok(Self { folder: absolute, version })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `VERSION.PATCHLEVEL`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The commit that is checked out, if the tree is one of git and nothing in it differs from the commit.
    fn commit(&self) -> Option<String> {
        let git = |arguments: &[&str]| -> Option<String> {
            let mut command = Command::new("git");
            command.arg("-C").arg(&self.folder).args(arguments).env("GIT_OPTIONAL_LOCKS", "0");
            // Hooks and aliases hand down the repository that they run for.
            for inherited in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"] {
                command.env_remove(inherited);
            }
            let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let commit = git(&["rev-parse", "--verify", "HEAD"])?;
        git(&["status", "--porcelain", "--", "."])?.is_empty().then_some(commit)
    }
}

/// `6.12` out of a kernel's Makefile.
fn version_of(makefile: &str) -> Option<String> {
    let field = |name: &str| -> Option<u32> {
        let line =
            makefile.lines().take(20).find(|line| line.split('=').next().map(str::trim) == Some(name))?;
        line.split_once('=')?.1.trim().parse().ok()
    };
    Some(format!("{}.{}", field("VERSION")?, field("PATCHLEVEL")?))
}

/// A kernel built from a user's tree. Its files stay as they are when the tree is built again.
#[derive(Clone, Debug)]
pub struct TreeKernel {
    /// What to boot: an ELF with a PVH note.
    pub kernel: PathBuf,
    pub bzimage: PathBuf,
    /// The kernel with its symbol table.
    pub vmlinux: PathBuf,
    pub system_map: PathBuf,
    /// As `uname -r` prints it.
    pub release: String,
    /// SHA-256 of `kernel`, in hex.
    pub hash: String,
    /// The commit that it was built from, unless the tree had changes or is none of git.
    pub commit: Option<String>,
    /// Why the tree cannot show what the recipe's image is for, if that is so: its absence is then no news.
    pub cannot_raise: Option<String>,
}

/// One build of a tree with one recipe's configuration.
pub(crate) struct TreeBuild<'a> {
    pub host: &'a Host,
    pub layout: &'a Layout,
    pub recipe: &'a Recipe,
    pub source: &'a SourceKernel,
    pub tree: &'a KernelTree,
    pub progress: &'a dyn Progress,
}

impl TreeBuild<'_> {
    /// Builds what has changed, unless the kernel of the commit that is checked out is there already.
    pub fn run(&self) -> Result<TreeKernel> {
        let folder = self.folder()?;
        if let Some(built) = self.find(&folder, self.identity().as_deref())? {
            return Ok(built);
        }
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        let name = self.recipe.name.as_str();
        let lock = Lock::wait(
            &self.layout.lock(&trees_of(name)),
            &format!("the build of kernel trees for {name}"),
            self.progress,
        )?;
        // Whoever held the lock may have built the same, and the tree may have changed meanwhile.
        let identity = self.identity();
        if let Some(built) = self.find(&folder, identity.as_deref())? {
            return Ok(built);
        }
        let origin = folder.join(ORIGIN);
        fs::write(&origin, self.tree.folder.as_os_str().as_bytes()).map_err(at(&origin))?;
        let complete = folder.join(COMPLETE).exists();
        let cost = (!complete).then_some(Estimate { download_mib: 0, ..self.recipe.estimate });
        if let (Some(cost), Some(free_mib)) = (&cost, self.host.free_mib(&folder))
            && free_mib < cost.disk_mib
            && !folder.join("build").exists()
        {
            return Err(Error::DiskFull { folder, free_mib, needed_mib: Some(cost.disk_mib) });
        }
        self.host.require("cc", "to compile the kernel")?;
        self.host.require("make", "to compile the kernel")?;
        let log = self.layout.log(&trees_of(name));
        self.progress.plan(&Plan {
            what: format!("the kernel in {}", self.tree.folder.display()),
            cost,
            log: log.clone(),
            stages: 2,
        });
        let runner = Runner::new(self.host, &lock, log)?;
        let result = self.build(&runner, &folder, identity, complete);
        self.progress.end();
        if let Err(error) = &result {
            runner.note(&error.to_string());
        }
        result
    }

    /// Where objects and kernels of this tree and configuration are.
    fn folder(&self) -> Result<PathBuf> {
        let path = self.tree.folder.to_string_lossy();
        let id = hash_parts(&[path.as_ref(), &self.source.config()?]);
        Ok(self.layout.tree_kernels(&self.recipe.name, &id))
    }

    /// What names the kernel's sources and its compiler; `None` for sources without a name.
    fn identity(&self) -> Option<String> {
        let commit = self.tree.commit()?;
        let mut command = Command::new("gcc");
        let output =
            command.arg("--version").env("PATH", &self.host.path).stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Some(format!("{commit}\n{}\n", text.lines().next().unwrap_or_default()))
    }

    /// The kernel with this identity.
    fn find(&self, folder: &Path, identity: Option<&str>) -> Result<Option<TreeKernel>> {
        let Some(identity) = identity else { return Ok(None) };
        let same =
            |kernel: &PathBuf| fs::read_to_string(kernel.join(IDENTITY)).is_ok_and(|text| text == identity);
        let Some(kernel) = kernels(folder).into_iter().map(|(_, kernel)| kernel).find(same) else {
            return Ok(None);
        };
        self.open(&kernel)
    }

    fn open(&self, folder: &Path) -> Result<Option<TreeKernel>> {
        let Some(files) = KernelFiles::open(folder) else { return Ok(None) };
        let file = |role: &str| files.files.get(role).map(|name| folder.join(name));
        let (Some(kernel), Some(bzimage), Some(vmlinux), Some(system_map)) =
            (file("kernel"), file("bzimage"), file("vmlinux"), file("system_map"))
        else {
            return Ok(None);
        };
        let failed = kernel::failed_check(self.source, &self.tree.folder)?;
        Ok(Some(TreeKernel {
            kernel,
            bzimage,
            vmlinux,
            system_map,
            release: files.release,
            hash: files.package.hash,
            commit: Some(files.package.version).filter(|commit| !commit.is_empty()),
            cannot_raise: failed.map(|check| format!("{} ({})", check.reason, check.file)),
        }))
    }

    fn build(
        &self,
        runner: &Runner,
        folder: &Path,
        identity: Option<String>,
        complete: bool,
    ) -> Result<TreeKernel> {
        let tools = self.tools(runner)?;
        let objects = folder.join("build");
        fs::create_dir_all(&objects).map_err(at(&objects))?;
        let tree = Tree { source: &self.tree.folder, objects: &objects };
        self.progress.stage(1, "kernel configuration");
        let lost = kernel::configure(runner, &tools, self.source, tree)?;
        if !lost.is_empty() {
            self.progress.message(&format!(
                "Linux {} does not take these options of {}; built without: {}",
                self.tree.version,
                self.recipe.name,
                lost.join(", ")
            ));
        }
        self.progress.stage(2, "compiling the kernel");
        // How many steps a change takes is not known beforehand.
        let silent: &dyn Progress = &();
        kernel::compile(runner, &tools, self.source, tree, if complete { silent } else { self.progress })?;
        let marker = folder.join(COMPLETE);
        fs::write(&marker, "").map_err(at(&marker))?;
        self.publish(runner, &tools, folder, &objects, identity)
    }

    /// The tools are the recipe's. Only a machine that lacks one needs the mirror.
    fn tools(&self, runner: &Runner) -> Result<Tools> {
        let wanted = &self.source.tools;
        if Tools::missing(runner, &self.layout.tools(), wanted)?.is_empty() {
            return Tools::ready(runner, &self.layout.tools(), wanted);
        }
        let mirrors = self.host.debian_mirrors().ok_or_else(|| Error::NoPackages {
            image: self.recipe.name.clone(),
            reason: "this machine's apt sources name no Debian mirror".into(),
            needs: format!("the programs and headers {}", wanted.join(", ")),
            bring_instead: "the kernel built elsewhere".into(),
        })?;
        let _lock = Lock::wait(&self.layout.lock("packages"), "the package cache", self.progress)?;
        let releases = Releases { runner, layout: self.layout, mirrors: &mirrors, progress: self.progress };
        tools::provide(&releases, wanted)
    }

    /// Keeps the compiled kernel in a folder named after its contents, so that whoever boots an earlier one is not disturbed.
    fn publish(
        &self,
        runner: &Runner,
        tools: &Tools,
        folder: &Path,
        objects: &Path,
        identity: Option<String>,
    ) -> Result<TreeKernel> {
        let partial = folder.join("partial");
        let mut files = kernel::copy_compiled(runner, tools, objects, &partial)?;
        // The tree may have been edited while it was compiled: then the kernel is not that of the commit.
        let identity = identity.filter(|identity| self.identity().as_ref() == Some(identity));
        let hash = hash_file(&partial.join("kernel"))?;
        files.package = PackageVersion {
            name: self.tree.folder.to_string_lossy().into_owned(),
            version: identity.as_ref().and_then(|text| text.lines().next()).unwrap_or_default().to_owned(),
            hash,
        };
        if let Some(identity) = &identity {
            let file = partial.join(IDENTITY);
            fs::write(&file, identity).map_err(at(&file))?;
        }
        let kept = folder.join("kernels");
        fs::create_dir_all(&kept).map_err(at(&kept))?;
        // The commit's name is part of it: two commits may make the same kernel, and each is found again.
        let key = hash_parts(&[&files.package.hash, &files.package.version]);
        let kernel = kept.join(key.get(..16).unwrap_or(&key));
        if KernelFiles::open(&kernel).is_none() {
            files.publish(&partial, &kernel)?;
        }
        // The time of a folder says when its kernel was built last.
        fs::File::open(&kernel).and_then(|file| file.set_modified(SystemTime::now())).map_err(at(&kernel))?;
        for (_, old) in kernels(folder).into_iter().skip(KEPT) {
            remove(&old)?;
        }
        remove(&partial)?;
        self.open(&kernel)?.ok_or_else(|| Error::Build {
            stage: "keeping the kernel".into(),
            reason: format!("{} is not whole", kernel.display()),
            log: runner.log_path.clone(),
            tail: String::new(),
        })
    }
}

/// The kernels kept in `folder`, the latest first.
fn kernels(folder: &Path) -> Vec<(SystemTime, PathBuf)> {
    let mut found: Vec<_> = fs::read_dir(folder.join("kernels"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    found.sort();
    found.reverse();
    found
}

fn hash_file(file: &Path) -> Result<String> {
    let data = fs::read(file).map_err(at(file))?;
    Ok(Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The name of locks and logs for trees built with the recipe `name`.
pub(crate) fn trees_of(name: &str) -> String {
    format!("{name}.tree")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Recorder;
    use crate::recipe::{self, KernelRecipe};

    /// A tree that kbuild's commands work in, with a kernel of one file.
    const MAKEFILE: &str = r#"VERSION = 6
PATCHLEVEL = 12
SUBLEVEL = 3

allnoconfig:
	@grep -v CONFIG_INPUT= $(KCONFIG_ALLCONFIG) > $(O)/.config

bzImage: modules
	@mkdir -p $(O)/arch/x86/boot $(O)/include/config
	@cp $(O)/vmlinux $(O)/arch/x86/boot/bzImage
	@echo 6.12.3-toy > $(O)/include/config/kernel.release
	@touch $(O)/System.map

modules: $(O)/vmlinux

$(O)/vmlinux: init/main.c
	@echo "  CC      init/main.o"
	@echo compiled >> $(O)/../count
	@cc -c -o $@ $<
"#;

    fn toy() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for (file, text) in [
            ("Makefile", MAKEFILE),
            ("Kconfig", ""),
            ("arch/x86/Makefile", ""),
            ("init/main.c", "int answer = 1;\n"),
            ("kernel/dma/debug.c", "cacheline tracking EEXIST, overlapping mappings aren't supported\n"),
        ] {
            let file = root.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        folder
    }

    fn git(tree: &Path, arguments: &[&str]) {
        let mut command = Command::new("git");
        command.arg("-C").arg(tree).args(["-c", "user.name=x", "-c", "user.email=x@example.org"]);
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {output:?}");
    }

    fn edit(tree: &Path, answer: u32) {
        fs::write(tree.join("init/main.c"), format!("int answer = {answer};\n")).unwrap();
    }

    /// A cache, and the debug recipe without the tools that a real kernel needs.
    struct Cache {
        folder: tempfile::TempDir,
        recipe: Recipe,
        source: SourceKernel,
        recorder: Recorder,
    }

    impl Cache {
        fn new() -> Self {
            let recipes = recipe::all().unwrap();
            let recipe = recipes.into_iter().find(|recipe| recipe.name == "linux-6.12-debug").unwrap();
            let KernelRecipe::Source(mut source) = recipe.kernel.clone() else { panic!("from source") };
            source.tools.clear();
            let folder = tempfile::tempdir().unwrap();
            for name in ["locks", "logs"] {
                fs::create_dir(folder.path().join(name)).unwrap();
            }
            Self { folder, recipe, source, recorder: Recorder::default() }
        }

        fn build(&self, tree: &Path) -> Result<TreeKernel> {
            TreeBuild {
                host: &Host::this_machine(),
                layout: &Layout { root: self.folder.path().to_owned() },
                recipe: &self.recipe,
                source: &self.source,
                tree: &KernelTree::open(tree)?,
                progress: &self.recorder,
            }
            .run()
        }

        /// How often something was compiled.
        fn compiled(&self) -> usize {
            let sources = self.folder.path().join("sources");
            let trees = fs::read_dir(sources).unwrap().map(|entry| entry.unwrap().path().join("count"));
            trees.map(|file| fs::read_to_string(file).unwrap().lines().count()).sum()
        }
    }

    #[test]
    fn only_an_unbuilt_kernel_tree_is_taken() {
        let tree = toy();
        assert_eq!(KernelTree::open(tree.path()).unwrap().version(), "6.12");
        let reason = |folder: &Path| KernelTree::open(folder).unwrap_err().to_string();
        assert!(reason(Path::new("/nonexistent")).contains("/nonexistent"));
        let blank = tree.path().join("a b");
        fs::create_dir(&blank).unwrap();
        assert!(reason(&blank).contains("Makefile"));
        fs::write(tree.path().join(".config"), "").unwrap();
        assert!(reason(tree.path()).contains("mrproper"));
        fs::remove_file(tree.path().join(".config")).unwrap();
        fs::remove_file(tree.path().join("init/main.c")).unwrap();
        assert!(reason(tree.path()).contains("init/main.c"));
        assert_eq!(version_of("# x\nVERSION = 7\nPATCHLEVEL = 2\n").as_deref(), Some("7.2"));
        assert_eq!(version_of("VERSION = 7\n"), None);
    }

    #[test]
    fn a_tree_without_commits_is_compiled_as_far_as_it_has_changed() {
        let (tree, cache) = (toy(), Cache::new());
        let first = cache.build(tree.path()).unwrap();
        assert_eq!(
            (first.release.as_str(), &first.commit, &first.cannot_raise),
            ("6.12.3-toy", &None, &None)
        );
        assert!(
            [&first.kernel, &first.bzimage, &first.vmlinux, &first.system_map].iter().all(|f| f.is_file())
        );
        let log = cache.recorder.lines().join("\n");
        assert!(log.contains("built without: CONFIG_INPUT=y"), "{log}");
        let same = cache.build(tree.path()).unwrap();
        assert_eq!((cache.compiled(), &same.hash, &same.kernel), (1, &first.hash, &first.kernel));
        edit(tree.path(), 2);
        let other = cache.build(tree.path()).unwrap();
        assert_eq!(cache.compiled(), 2);
        assert_ne!(other.hash, first.hash);
        assert!(first.kernel.is_file(), "who boots the first is not disturbed");
        for answer in 3..8 {
            edit(tree.path(), answer);
            cache.build(tree.path()).unwrap();
        }
        assert!(!first.kernel.exists() && other.kernel.parent().unwrap().parent().unwrap().is_dir());
        let kept = fs::read_dir(other.kernel.parent().unwrap().parent().unwrap()).unwrap().count();
        assert_eq!(kept, KEPT);
    }

    #[test]
    fn a_commits_kernel_is_found_again_without_make() {
        let (tree, cache) = (toy(), Cache::new());
        git(tree.path(), &["init", "--quiet"]);
        git(tree.path(), &["add", "--all"]);
        git(tree.path(), &["commit", "--quiet", "--message", "one"]);
        let one = cache.build(tree.path()).unwrap();
        let steps = cache.recorder.lines().len();
        assert_eq!(one.commit.as_deref().map(str::len), Some(40));
        assert_eq!(cache.build(tree.path()).unwrap().kernel, one.kernel);
        assert_eq!(cache.recorder.lines().len(), steps, "nothing was built");

        edit(tree.path(), 2);
        let dirty = cache.build(tree.path()).unwrap();
        assert_eq!((dirty.commit, cache.compiled()), (None, 2));
        git(tree.path(), &["commit", "--quiet", "--all", "--message", "two"]);
        let two = cache.build(tree.path()).unwrap();
        assert_eq!((&two.hash, cache.compiled()), (&dirty.hash, 2));
        assert!(two.commit.is_some() && two.commit != one.commit);
        git(tree.path(), &["checkout", "--quiet", "--detach", "HEAD~1"]);
        let back = cache.build(tree.path()).unwrap();
        assert_eq!((back.kernel, back.commit, cache.compiled()), (one.kernel, one.commit, 2));
    }

    #[test]
    fn a_tree_that_does_not_compile_is_an_error_and_one_that_cannot_warn_is_not() {
        let (tree, cache) = (toy(), Cache::new());
        fs::write(tree.path().join("kernel/dma/debug.c"), "if (dma_get_cache_alignment() > 1)\n").unwrap();
        let built = cache.build(tree.path()).unwrap();
        assert!(built.cannot_raise.unwrap().ends_with("(kernel/dma/debug.c)"));
        edit(tree.path(), 9);
        fs::write(tree.path().join("init/main.c"), "this is no C;\n").unwrap();
        let error = cache.build(tree.path()).unwrap_err();
        assert!(matches!(&error, Error::Build { tail, .. } if tail.contains("init/main.c")), "{error}");
    }
}
