//! The image cache: which images there are, where they lie, and building the absent ones.

use crate::builder::Build;
use crate::deb_version;
use crate::error::{Error, Result, at};
use crate::host::Host;
use crate::image::Image;
use crate::kernel::remove;
use crate::kernel_source::{KernelTree, TreeBuild, TreeKernel, trees_of};
use crate::lock::Lock;
use crate::module_build::ModuleBuild;
use crate::progress::Progress;
use crate::recipe::{self, KernelRecipe, Recipe, SourceKernel};
use crate::transfer;
use std::cell::Cell;
use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

/// Where everything lies in the cache folder.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub root: PathBuf,
}

impl Layout {
    pub fn image(&self, name: &str, hash: &str) -> PathBuf {
        let short = hash.get(..16).unwrap_or(hash);
        self.images().join(format!("{name}-{short}"))
    }

    /// A compiled kernel, named by the hash of what decides it.
    pub fn kernel(&self, name: &str, hash: &str) -> PathBuf {
        let short = hash.get(..16).unwrap_or(hash);
        self.root.join("kernels").join(format!("{name}-{short}"))
    }

    /// Objects and kernels of a user's tree, named by the hash of its path and configuration.
    pub fn tree_kernels(&self, name: &str, hash: &str) -> PathBuf {
        let short = hash.get(..16).unwrap_or(hash);
        self.root.join("sources").join(format!("{name}-{short}"))
    }

    /// An initramfs without its image's kernel.
    pub fn initramfs(&self, name: &str, hash: &str) -> PathBuf {
        let short = hash.get(..16).unwrap_or(hash);
        self.root.join("initramfs").join(format!("{name}-{short}"))
    }

    fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// The image while it is being put together; the dot keeps it out of every lookup.
    pub fn partial(&self, name: &str) -> PathBuf {
        self.images().join(format!(".{name}.partial"))
    }

    pub fn work(&self, name: &str) -> PathBuf {
        self.root.join("work").join(name)
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    pub fn lock(&self, name: &str) -> PathBuf {
        self.root.join("locks").join(format!("{name}.lock"))
    }

    pub fn downloads(&self) -> PathBuf {
        self.root.join("downloads")
    }

    pub fn apt(&self) -> PathBuf {
        self.root.join("apt")
    }

    /// The unpacked headers of a packaged kernel's release.
    pub fn tree(&self, name: &str, release: &str) -> PathBuf {
        self.trees(name).join(release)
    }

    fn trees(&self, name: &str) -> PathBuf {
        self.root.join("trees").join(name)
    }

    /// Why the mirror could not serve the image at the last attempt.
    pub fn unavailable(&self, name: &str, hash: &str) -> PathBuf {
        let short = hash.get(..16).unwrap_or(hash);
        self.root.join("unavailable").join(format!("{name}-{short}"))
    }

    /// An archive keyring that is newer than the machine's.
    pub fn keyring(&self) -> PathBuf {
        self.root.join("keyring")
    }

    pub fn tools(&self) -> PathBuf {
        self.root.join("tools")
    }

    fn create(&self) -> Result<()> {
        for folder in [
            "images",
            "kernels",
            "sources",
            "initramfs",
            "work",
            "logs",
            "locks",
            "downloads",
            "apt",
            "unavailable",
            "trees",
        ] {
            let folder = self.root.join(folder);
            fs::create_dir_all(&folder).map_err(at(&folder))?;
        }
        Ok(())
    }
}

/// The image cache.
#[derive(Clone, Debug)]
pub struct Store {
    layout: Layout,
    recipes: Vec<Recipe>,
    host: Host,
}

impl Store {
    /// The cache in `cache_dir`, by default `$XDG_CACHE_HOME/staleline` or `~/.cache/staleline`. Nothing is written yet.
    pub fn open(cache_dir: Option<PathBuf>) -> Result<Self> {
        let root = match cache_dir {
            Some(folder) => folder,
            None => default_folder(std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME"))?,
        };
        // Builds run with other working directories.
        let root = std::path::absolute(&root).map_err(at(&root))?;
        Ok(Self { layout: Layout { root }, recipes: recipe::all()?, host: Host::this_machine() })
    }

    /// The cache folder; it may not exist yet.
    pub fn folder(&self) -> &Path {
        &self.layout.root
    }

    /// Where host tools are unpacked that the machine lacks; it may not exist yet.
    pub fn tools_folder(&self) -> PathBuf {
        self.layout.tools()
    }

    pub fn recipes(&self) -> &[Recipe] {
        &self.recipes
    }

    /// The recipe called `name`, or [`Error::UnknownImage`].
    pub fn recipe(&self, name: &str) -> Result<&Recipe> {
        self.recipes.iter().find(|recipe| recipe.name == name).ok_or_else(|| Error::UnknownImage {
            name: name.to_owned(),
            known: self.recipes.iter().map(|recipe| recipe.name.clone()).collect(),
        })
    }

    /// The content hash of the recipe called `name`.
    pub fn hash(&self, name: &str) -> Result<String> {
        self.recipe(name)?.hash()
    }

    /// The image, if it has been built from the recipe as it is now.
    pub fn path(&self, name: &str) -> Result<Option<Image>> {
        let hash = self.hash(name)?;
        let image = Image::open(&self.layout.image(name, &hash));
        Ok(image.filter(|image| image.name == name && image.hash == hash))
    }

    /// The image, built now if it is absent. Processes that want the same image wait for one another.
    pub fn ensure(&self, name: &str, progress: &dyn Progress) -> Result<Image> {
        if let Some(image) = self.path(name)? {
            return Ok(image);
        }
        let recipe = self.recipe(name)?;
        let hash = recipe.hash()?;
        self.layout.create()?;
        let lock = Lock::wait(&self.layout.lock(name), &format!("image {name}"), progress)?;
        if let Some(image) = self.path(name)? {
            return Ok(image);
        }
        let result = self.build(recipe, &hash, &lock, progress).run();
        let record = self.layout.unavailable(name, &hash);
        match &result {
            Err(error) if error.is_unavailable() => {
                fs::write(&record, error.to_string()).map_err(at(&record))?;
            }
            _ => remove(&record)?,
        }
        result
    }

    fn build<'a>(
        &'a self,
        recipe: &'a Recipe,
        hash: &'a str,
        lock: &'a Lock,
        progress: &'a dyn Progress,
    ) -> Build<'a> {
        let (host, layout, stage) = (&self.host, &self.layout, Cell::new(0));
        Build { host, layout, recipe, hash, lock, progress, stage }
    }

    /// The recipe to build a user's kernel tree with when none is named: of those that compile their kernel the one for the
    /// latest version that is not above the tree's.
    pub fn recipe_for(&self, tree: &KernelTree) -> Result<&Recipe> {
        let mut compiled: Vec<(&Recipe, &str)> =
            self.compiled().map(|(recipe, source)| (recipe, source.version.at_least.as_str())).collect();
        compiled.sort_by(|one, other| deb_version::compare(one.1, other.1));
        let not_above = |version: &str| deb_version::compare(version, tree.version()) != Ordering::Greater;
        let best = compiled.iter().rfind(|(_, version)| not_above(version)).or(compiled.first());
        best.map(|(recipe, _)| *recipe).ok_or(Error::UnknownImage { name: String::new(), known: Vec::new() })
    }

    /// Builds the kernel of a user's tree with the configuration of the image `name`: out of tree, and only what has changed
    /// since the last time. Processes that build for the same image wait for one another.
    pub fn build_tree(&self, name: &str, tree: &KernelTree, progress: &dyn Progress) -> Result<TreeKernel> {
        let (recipe, source) = self.compiled_recipe(name)?;
        self.layout.create()?;
        TreeBuild { host: &self.host, layout: &self.layout, recipe, source, tree, progress }.run()
    }

    /// The initramfs of the image `name`, which must be one that compiles its kernel; it is built now if it is absent, without
    /// the kernel.
    pub fn initramfs(&self, name: &str, progress: &dyn Progress) -> Result<PathBuf> {
        let (recipe, _) = self.compiled_recipe(name)?;
        let hash = recipe.hash()?;
        let alone = self.layout.initramfs(name, &hash);
        let find = || -> Result<Option<PathBuf>> {
            let whole = self.path(name)?.map(|image| image.initrd);
            Ok(whole.or_else(|| alone.is_file().then(|| alone.clone())))
        };
        if let Some(file) = find()? {
            return Ok(file);
        }
        self.layout.create()?;
        let lock = Lock::wait(&self.layout.lock(name), &format!("image {name}"), progress)?;
        if let Some(file) = find()? {
            return Ok(file);
        }
        self.build(recipe, &hash, &lock, progress).initramfs(&alone)?;
        Ok(alone)
    }

    /// The recipes that compile their kernel.
    fn compiled(&self) -> impl Iterator<Item = (&Recipe, &SourceKernel)> {
        self.recipes.iter().filter_map(|recipe| match &recipe.kernel {
            KernelRecipe::Source(source) => Some((recipe, source)),
            KernelRecipe::Package(_) => None,
        })
    }

    fn compiled_recipe(&self, name: &str) -> Result<(&Recipe, &SourceKernel)> {
        let recipe = self.recipe(name)?;
        self.compiled().find(|(compiled, _)| compiled.name == recipe.name).ok_or_else(|| {
            Error::NotFromSource {
                image: name.to_owned(),
                known: self.compiled().map(|(recipe, _)| recipe.name.clone()).collect(),
            }
        })
    }

    /// The tree to build out-of-tree modules against for the image's kernel (`make -C TREE M=FOLDER modules`); the image is
    /// built if it is absent. The headers packages of a packaged kernel are fetched at first use.
    pub fn module_tree(&self, name: &str, progress: &dyn Progress) -> Result<PathBuf> {
        self.with_modules(name, progress, |modules| modules.tree())
    }

    /// Builds the out-of-tree modules of the folder `source`, which has a kbuild Makefile, for the image's kernel, and
    /// copies them to the folder `to`. Returns where they are. The source folder is left as it is.
    pub fn build_module(
        &self,
        name: &str,
        source: &Path,
        to: &Path,
        progress: &dyn Progress,
    ) -> Result<Vec<PathBuf>> {
        self.with_modules(name, progress, |modules| modules.build(source, to))
    }

    fn with_modules<T>(
        &self,
        name: &str,
        progress: &dyn Progress,
        act: impl FnOnce(&ModuleBuild) -> Result<T>,
    ) -> Result<T> {
        let image = self.ensure(name, progress)?;
        self.layout.create()?;
        let lock = Lock::wait(&self.layout.lock(&modules_of(name)), &format!("modules of {name}"), progress)?;
        act(&ModuleBuild {
            host: &self.host,
            layout: &self.layout,
            recipe: self.recipe(name)?,
            image: &image,
            lock: &lock,
            progress,
        })
    }

    /// Writes the image, which must have been built, to the file `to`.
    pub fn export(&self, name: &str, to: &Path) -> Result<()> {
        match self.path(name)? {
            Some(image) => transfer::export(&image, to),
            None => Err(Error::NotBuilt { image: name.to_owned() }),
        }
    }

    /// Takes the image out of a file that [`Store::export`] has written. An image that is there already is left as it is.
    pub fn import(&self, file: &Path, progress: &dyn Progress) -> Result<Image> {
        let refuse = |reason: String| Error::NoImageFile { file: file.to_owned(), reason };
        let mut lock = None;
        let mut present = None;
        let unpacked = transfer::unpack(file, |label| {
            let unknown = |_| refuse(format!("this staleline has no image {:?}, which is in it", label.name));
            let wanted = self.hash(&label.name).map_err(unknown)?;
            if label.hash != wanted {
                return Err(refuse(format!(
                    "image {} in it was built from another recipe ({}) than this staleline's ({wanted})",
                    label.name, label.hash
                )));
            }
            self.layout.create()?;
            let what = format!("image {}", label.name);
            lock = Some(Lock::wait(&self.layout.lock(&label.name), &what, progress)?);
            present = self.path(&label.name)?;
            Ok(present.is_none().then(|| self.layout.partial(&label.name)))
        });
        if let Some(image) = present {
            return Ok(image);
        }
        let Some((label, partial)) = unpacked? else { return Err(refuse("it is empty".into())) };
        let whole =
            Image::open(&partial).filter(|image| (&image.name, &image.hash) == (&label.name, &label.hash));
        if whole.is_none() {
            remove(&partial)?;
            return Err(refuse("it lacks files of the image".into()));
        }
        let folder = self.layout.image(&label.name, &label.hash);
        remove(&folder)?;
        fs::rename(&partial, &folder).map_err(at(&folder))?;
        Image::open(&folder).ok_or_else(|| refuse("it lacks files of the image".into()))
    }

    /// Why the image could not be built at the last attempt, if the mirror lacked a package for it
    /// ([`Error::is_unavailable`]).
    pub fn unavailable(&self, name: &str) -> Result<Option<String>> {
        Ok(fs::read_to_string(self.layout.unavailable(name, &self.hash(name)?)).ok())
    }

    /// Removes an image, its log and its unfinished work; with `None` all of them and the shared downloads and tools.
    /// Fails with [`Error::Busy`] while one is being built.
    pub fn clean(&self, name: Option<&str>) -> Result<()> {
        let names: Vec<&str> = match name {
            Some(name) => vec![&self.recipe(name)?.name],
            None => self.recipes.iter().map(|recipe| recipe.name.as_str()).collect(),
        };
        if !self.layout.root.join("locks").exists() {
            return Ok(());
        }
        let mut locks = Vec::new();
        for name in &names {
            locks.push(Lock::try_take(&self.layout.lock(name), name)?);
            locks.push(Lock::try_take(&self.layout.lock(&modules_of(name)), name)?);
            locks.push(Lock::try_take(&self.layout.lock(&trees_of(name)), name)?);
        }
        for name in &names {
            let prefix = format!("{name}-");
            let parents = ["images", "kernels", "sources", "initramfs", "unavailable"];
            let folders = parents.map(|folder| self.layout.root.join(folder));
            for entry in folders.iter().flat_map(fs::read_dir).flatten().flatten() {
                let file = entry.file_name();
                let hash = file.to_str().and_then(|file| file.strip_prefix(&prefix));
                let is_image =
                    hash.is_some_and(|hash| hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()));
                if is_image {
                    remove(&entry.path())?;
                }
            }
            let layout = &self.layout;
            let modules = modules_of(name);
            for path in [
                layout.partial(name),
                layout.work(name),
                layout.log(name),
                layout.trees(name),
                layout.work(&modules),
                layout.log(&modules),
                layout.log(&trees_of(name)),
            ] {
                remove(&path)?;
            }
        }
        if name.is_none() {
            locks.push(Lock::try_take(&self.layout.lock("packages"), "packages")?);
            for path in
                [self.layout.downloads(), self.layout.apt(), self.layout.keyring(), self.layout.tools()]
            {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

/// The name of locks, logs and work folders for modules of the image `name`.
pub(crate) fn modules_of(name: &str) -> String {
    format!("{name}.modules")
}

fn default_folder(xdg: Option<std::ffi::OsString>, home: Option<std::ffi::OsString>) -> Result<PathBuf> {
    let given =
        |value: Option<std::ffi::OsString>| value.map(PathBuf::from).filter(|path| path.is_absolute());
    given(xdg)
        .or_else(|| given(home).map(|home| home.join(".cache")))
        .map(|folder| folder.join("staleline"))
        .ok_or(Error::NoCacheFolder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::write_sample;
    use crate::progress::Recorder;
    use std::time::Duration;

    fn store(folder: &Path) -> Store {
        let mut store = Store::open(Some(folder.to_owned())).unwrap();
        // No test may reach for the machine's packages.
        store.host = Host { path: std::ffi::OsString::new(), root: folder.to_owned() };
        store
    }

    fn put(store: &Store, name: &str) -> PathBuf {
        let hash = store.hash(name).unwrap();
        let folder = store.layout.image(name, &hash);
        write_sample(&folder, name, &hash);
        folder
    }

    #[test]
    fn built_images_are_found_by_name_and_hash() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        assert!(store.path("debian-cloud-6.1").unwrap().is_none());
        let built = put(&store, "debian-cloud-6.1");
        assert_eq!(store.path("debian-cloud-6.1").unwrap().unwrap().folder, built);
        assert_eq!(
            store.ensure("debian-cloud-6.1", &()).unwrap().hash,
            store.hash("debian-cloud-6.1").unwrap()
        );

        write_sample(&built, "debian-cloud-6.1", "another recipe's hash");
        assert!(store.path("debian-cloud-6.1").unwrap().is_none());
        let error = store.path("debian-7").unwrap_err().to_string();
        assert!(error.contains("debian-7") && error.contains("linux-6.12-debug"), "{error}");
    }

    #[test]
    fn without_apt_the_error_names_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let error = store(folder.path()).ensure("linux-6.12-debug", &()).unwrap_err();
        assert!(matches!(error, Error::NoPackages { .. }));
        let text = error.to_string();
        for part in ["apt-get", "--kernel", "--initrd", "linux-source-6.12", "CONFIG_DMA_API_DEBUG"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    /// A mirror that has moved on to a later series.
    #[test]
    fn what_the_mirror_lacks_is_unavailable_and_what_is_built_stays_usable() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let suite = |name| (name, "linux-image-6.2.0-1-cloud-amd64", "6.2.1-1");
        crate::releases::tests::archive(root, &[suite("bookworm"), suite("bookworm-updates")]);
        fs::create_dir_all(root.join("etc/apt")).unwrap();
        fs::write(root.join("etc/os-release"), "ID=debian\nVERSION_CODENAME=bookworm\n").unwrap();
        let line = format!("deb [trusted=yes] file:{} bookworm main\n", root.display());
        fs::write(root.join("etc/apt/sources.list"), line).unwrap();
        let mut store = store(root);
        store.host.path = Host::this_machine().path;

        let error = store.ensure("debian-cloud-6.1", &()).unwrap_err();
        assert!(error.is_unavailable(), "{error}");
        let reason = store.unavailable("debian-cloud-6.1").unwrap().unwrap();
        assert!(reason.starts_with("unavailable: ") && reason.contains("linux-image-6.1.0-*"), "{reason}");
        assert_eq!(store.unavailable("debian-cloud-6.12").unwrap(), None, "not tried");

        put(&store, "debian-cloud-6.1");
        assert_eq!(store.ensure("debian-cloud-6.1", &()).unwrap().name, "debian-cloud-6.1");
    }

    #[test]
    fn a_concurrent_build_is_waited_for_and_its_result_used() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        store.layout.create().unwrap();
        let other = Lock::wait(&store.layout.lock("debian-cloud-6.1"), "x", &()).unwrap();
        let recorder = Recorder::default();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| store.ensure("debian-cloud-6.1", &recorder));
            while recorder.lines().is_empty() {
                std::thread::sleep(Duration::from_millis(1));
            }
            put(&store, "debian-cloud-6.1");
            drop(other);
            assert_eq!(waiting.join().unwrap().unwrap().name, "debian-cloud-6.1");
        });
        assert_eq!(recorder.lines().len(), 1);
    }

    #[test]
    fn clean_removes_what_it_names_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        store.clean(None).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "cleaning nothing writes nothing");
        store.layout.create().unwrap();
        fs::write(folder.path().join("notes.txt"), "the user's").unwrap();
        let (one, two) = (put(&store, "debian-cloud-6.1"), put(&store, "debian-cloud-6.12"));
        store.clean(Some("debian-cloud-6.1")).unwrap();
        assert!(!one.exists() && two.exists());

        let lock = Lock::wait(&store.layout.lock("debian-cloud-6.12"), "x", &()).unwrap();
        assert!(matches!(store.clean(None), Err(Error::Busy { .. })));
        assert!(two.exists());
        drop(lock);
        store.clean(None).unwrap();
        assert!(!two.exists() && !store.layout.downloads().exists());
        assert!(folder.path().join("notes.txt").exists());
        assert!(store.clean(Some("nonsense")).is_err());
    }

    #[test]
    fn an_exported_image_is_imported_elsewhere_and_nothing_else_is() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (store(one.path()), store(two.path()));
        let file = one.path().join("image.tar.zst");
        let name = "debian-cloud-6.1";
        assert!(matches!(from.export(name, &file), Err(Error::NotBuilt { .. })));
        let folder = put(&from, name);
        fs::create_dir_all(folder.join("userspace/usr/bin")).unwrap();
        fs::write(folder.join("userspace/usr/bin/run"), "text").unwrap();
        std::os::unix::fs::symlink("/usr/bin/run", folder.join("userspace/link")).unwrap();
        from.export(name, &file).unwrap();
        let bytes = fs::read(&file).unwrap();
        from.export(name, &file).unwrap();
        assert_eq!(fs::read(&file).unwrap(), bytes, "the same image, other bytes");

        let image = to.import(&file, &()).unwrap();
        assert_eq!(to.path(name).unwrap().unwrap().folder, image.folder);
        let userspace = image.userspace.unwrap();
        let original = image.manifest.clone();
        assert_eq!(fs::read_to_string(userspace.join("usr/bin/run")).unwrap(), "text");
        assert_eq!(fs::read_link(userspace.join("link")).unwrap(), Path::new("/usr/bin/run"));
        assert_eq!(to.import(&file, &()).unwrap().folder, image.folder, "it is there already");

        to.clean(None).unwrap();
        let refused = |bytes: &[u8]| {
            let file = two.path().join("other");
            fs::write(&file, bytes).unwrap();
            let error = to.import(&file, &()).unwrap_err();
            assert!(matches!(&error, Error::NoImageFile { .. }), "{error}");
            assert!(to.path(name).unwrap().is_none());
            error.to_string()
        };
        for length in [0, 3, 20, bytes.len() / 2, bytes.len() - 1] {
            assert!(refused(&bytes[..length]).contains("cut off or damaged"), "{length} bytes");
        }
        let mut harmless = Vec::new();
        for at in (0..bytes.len()).step_by(7) {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x10;
            let file = two.path().join("other");
            fs::write(&file, &bytes).unwrap();
            // A bit that the compression format has no use for changes nothing.
            match to.import(&file, &()) {
                Err(error) => assert!(matches!(error, Error::NoImageFile { .. }), "byte {at}: {error}"),
                Ok(image) => {
                    assert_eq!(image.manifest, original, "byte {at}");
                    let script = image.userspace.unwrap().join("usr/bin/run");
                    assert_eq!(fs::read_to_string(script).unwrap(), "text", "byte {at}");
                    harmless.push(at);
                    to.clean(None).unwrap();
                }
            }
        }
        assert!(harmless.len() <= 2, "damage at these bytes is not seen: {harmless:?}");
        assert!(refused(b"PK\x03\x04 something else").contains("none that staleline has written"));
        write_sample(&folder, name, &from.hash(name).unwrap());
        fs::write(folder.join("manifest.json"), "{}").unwrap();
        let mut image = Image::open(&to.import(&file, &()).unwrap().folder).unwrap();
        to.clean(None).unwrap();
        image.folder = folder;
        transfer::export(&image, &file).unwrap();
        assert!(refused(&fs::read(&file).unwrap()).contains("lacks files"));
        image.hash = "another".into();
        transfer::export(&image, &file).unwrap();
        assert!(refused(&fs::read(&file).unwrap()).contains("another recipe"));
    }

    #[test]
    fn the_default_folder_follows_xdg() {
        let folder =
            |xdg: Option<&str>, home: Option<&str>| default_folder(xdg.map(Into::into), home.map(Into::into));
        assert_eq!(folder(Some("/x"), Some("/h")).unwrap(), Path::new("/x/staleline"));
        assert_eq!(folder(Some(""), Some("/h")).unwrap(), Path::new("/h/.cache/staleline"));
        assert_eq!(folder(Some("relative"), Some("/h")).unwrap(), Path::new("/h/.cache/staleline"));
        assert!(matches!(folder(None, None), Err(Error::NoCacheFolder)));
    }
}
