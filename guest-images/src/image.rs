//! A built image and its manifest.

use crate::apt::Package;
use crate::error::{Error, Result, at};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The folder of whole packages in an image's.
pub(crate) const USERSPACE: &str = "userspace";
pub(crate) const MANIFEST: &str = "manifest.json";

/// A built image: files in the cache, and what they were made from.
#[derive(Clone, Debug)]
pub struct Image {
    pub name: String,
    /// The recipe's content hash ([`crate::Recipe::hash`]).
    pub hash: String,
    pub folder: PathBuf,
    /// What to boot: an ELF with a PVH note for kernels built here, a bzImage for packaged ones.
    pub kernel: PathBuf,
    /// An uncompressed newc archive; boot it with `rdinit=/staleline/init`.
    pub initrd: PathBuf,
    /// The bzImage of a kernel built here.
    pub bzimage: Option<PathBuf>,
    /// The kernel with its symbol table; packaged kernels have none.
    pub vmlinux: Option<PathBuf>,
    pub system_map: Option<PathBuf>,
    /// The unpacked packages of the guest's user space, in images that keep them.
    pub userspace: Option<PathBuf>,
    /// The kernel command line that the image wants.
    pub cmdline: String,
    pub manifest: Manifest,
}

/// `manifest.json`: what went into the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub name: String,
    pub hash: String,
    pub cmdline: String,
    /// As `uname -r` prints it.
    pub kernel_release: String,
    /// The C compiler's first `--version` line.
    pub compiler: String,
    pub packages: Vec<PackageVersion>,
    /// File names in the image's folder by role: kernel, initrd, bzimage, vmlinux, system_map, config.
    pub files: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageVersion {
    pub name: String,
    pub version: String,
    /// As the archive's index states it, `SHA256:…`.
    pub hash: String,
}

impl From<&Package> for PackageVersion {
    fn from(package: &Package) -> Self {
        Self { name: package.name.clone(), version: package.version.clone(), hash: package.hash.clone() }
    }
}

impl Manifest {
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let file = folder.join(MANIFEST);
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|error| Error::Io { path: file.clone(), source: error.into() })?;
        text.push('\n');
        fs::write(&file, text).map_err(at(&file))
    }
}

impl Image {
    /// Opens the image in `folder`; `None` if there is none or it is not whole.
    pub(crate) fn open(folder: &Path) -> Option<Self> {
        let text = fs::read_to_string(folder.join(MANIFEST)).ok()?;
        let manifest: Manifest = serde_json::from_str(&text).ok()?;
        let file =
            |role: &str| manifest.files.get(role).map(|name| folder.join(name)).filter(|path| path.is_file());
        if manifest.files.keys().any(|role| file(role).is_none()) {
            return None;
        }
        Some(Self {
            name: manifest.name.clone(),
            hash: manifest.hash.clone(),
            folder: folder.to_owned(),
            kernel: file("kernel")?,
            initrd: file("initrd")?,
            bzimage: file("bzimage"),
            vmlinux: file("vmlinux"),
            system_map: file("system_map"),
            userspace: Some(folder.join(USERSPACE)).filter(|folder| folder.is_dir()),
            cmdline: manifest.cmdline.clone(),
            manifest,
        })
    }
}

#[cfg(test)]
pub(crate) fn write_sample(folder: &Path, name: &str, hash: &str) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("bzImage"), "k").unwrap();
    fs::write(folder.join("initrd.cpio"), "i").unwrap();
    let files = [("kernel", "bzImage"), ("initrd", "initrd.cpio")];
    let manifest = Manifest {
        name: name.into(),
        hash: hash.into(),
        cmdline: "console=ttyS0".into(),
        kernel_release: "6.1".into(),
        compiler: "cc".into(),
        packages: vec![PackageVersion { name: "p".into(), version: "1".into(), hash: "SHA256:0".into() }],
        files: files.map(|(role, file)| (role.to_owned(), file.to_owned())).into(),
    };
    manifest.write(folder).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_opens_only_if_all_its_files_are_there() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Image::open(folder.path()).is_none());
        write_sample(folder.path(), "x", "abc");
        let image = Image::open(folder.path()).unwrap();
        assert_eq!(image.kernel, folder.path().join("bzImage"));
        assert_eq!((image.name.as_str(), image.vmlinux), ("x", None));
        assert_eq!(image.manifest.packages[0].version, "1");
        fs::remove_file(folder.path().join("initrd.cpio")).unwrap();
        assert!(Image::open(folder.path()).is_none());
    }
}
