//! Building out-of-tree modules for a guest's kernel.

use crate::error::{Error, Result, at};
use crate::host::Host;
use crate::image::Image;
use crate::kernel::{Tree, make, remove};
use crate::lock::Lock;
use crate::module_tree;
use crate::progress::Progress;
use crate::recipe::{KernelRecipe, Recipe};
use crate::releases::Releases;
use crate::runner::Runner;
use crate::store::{Layout, modules_of};
use crate::tools;
use std::fs;
use std::path::{Path, PathBuf};

/// Programs and libraries that kbuild's own programs need at run time.
const TOOLS: [&str; 1] = ["libelf"];

/// Modules for the kernel of one image, which is built. The caller holds the lock of the image's modules.
pub(crate) struct ModuleBuild<'a> {
    pub host: &'a Host,
    pub layout: &'a Layout,
    pub recipe: &'a Recipe,
    pub image: &'a Image,
    pub lock: &'a Lock,
    pub progress: &'a dyn Progress,
}

impl ModuleBuild<'_> {
    /// The tree to build against, fetched first if the kernel is packaged and this is its first use.
    pub fn tree(&self) -> Result<PathBuf> {
        match &self.recipe.kernel {
            KernelRecipe::Source(source) => {
                Ok(self.layout.kernel(&self.recipe.name, &source.hash()?).join(module_tree::FOLDER))
            }
            KernelRecipe::Package(_) => {
                let release = &self.image.manifest.kernel_release;
                let folder = self.layout.tree(&self.recipe.name, release);
                match module_tree::find(&folder, release) {
                    Some(tree) => Ok(tree),
                    None => self.with_releases(|releases| {
                        module_tree::from_headers(releases, &self.recipe.suites, self.image, &folder)
                    }),
                }
            }
        }
    }

    /// Builds the modules of the folder `source`, which has a kbuild Makefile, and copies them to the folder `to`. The
    /// source folder is left as it is. Modules in folders below it are not copied.
    pub fn build(&self, source: &Path, to: &Path) -> Result<Vec<PathBuf>> {
        let stage = "building the module";
        if !["Makefile", "Kbuild"].iter().any(|name| source.join(name).is_file()) {
            return Err(Error::NoModule { folder: source.to_owned() });
        }
        let tree = self.tree()?;
        let tools = self.with_releases(|releases| tools::provide(releases, &TOOLS.map(str::to_owned)))?;
        let runner = self.runner()?;
        let work = self.layout.work(&modules_of(&self.recipe.name));
        remove(&work)?;
        fs::create_dir_all(&work).map_err(at(&work))?;
        let mut copy = runner.command("cp");
        copy.args(["-rL", "--"]).arg(source.join(".")).arg(&work);
        runner.run(stage, &mut copy, |_| {})?;

        let mut command = make(&runner, &tools, Tree::in_place(&tree));
        command.arg(format!("M={}", work.display())).arg("modules");
        runner.run(stage, &mut command, |_| {})?;
        fs::create_dir_all(to).map_err(at(to))?;
        let mut built = Vec::new();
        for entry in fs::read_dir(&work).map_err(at(&work))? {
            let file = entry.map_err(at(&work))?.path();
            if let (true, Some(name)) = (file.extension().is_some_and(|ext| ext == "ko"), file.file_name()) {
                let module = to.join(name);
                fs::copy(&file, &module).map_err(at(&module))?;
                built.push(module);
            }
        }
        remove(&work)?;
        built.sort();
        if built.is_empty() {
            return Err(Error::NoModule { folder: source.to_owned() });
        }
        Ok(built)
    }

    fn runner(&self) -> Result<Runner<'_>> {
        Runner::new(self.host, self.lock, self.layout.log(&modules_of(&self.recipe.name)))
    }

    fn with_releases<T>(&self, act: impl FnOnce(&Releases) -> Result<T>) -> Result<T> {
        let mirrors = self.host.debian_mirrors().ok_or_else(|| Error::NoPackages {
            image: self.recipe.name.clone(),
            reason: "this machine's apt sources name no Debian mirror".into(),
            needs: format!("linux-headers-{}", self.image.manifest.kernel_release),
            bring_instead: "modules built elsewhere".into(),
        })?;
        let runner = self.runner()?;
        let _lock = Lock::wait(&self.layout.lock("packages"), "the package cache", self.progress)?;
        act(&Releases { runner: &runner, layout: self.layout, mirrors: &mirrors, progress: self.progress })
    }
}
