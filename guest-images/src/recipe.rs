//! Recipes: what an image consists of, as data (TOML in `guest-images/recipes`), and the content hash that names the result.

use crate::deb_version;
use crate::error::{Error, Result};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::cmp::Ordering;
use std::fmt;

/// Bump when the builder changes what it makes from the same recipe.
const FORMAT: &str = "staleline image format 2";

/// The files under `recipes/` and `programs/`, by name.
const RECIPES: &[(&str, &str)] = &[
    ("linux-6.12-debug.toml", include_str!("../recipes/linux-6.12-debug.toml")),
    ("linux-6.1-debug.toml", include_str!("../recipes/linux-6.1-debug.toml")),
    ("linux-7.2-debug.toml", include_str!("../recipes/linux-7.2-debug.toml")),
    ("debian-cloud-6.1.toml", include_str!("../recipes/debian-cloud-6.1.toml")),
    ("debian-cloud-6.12.toml", include_str!("../recipes/debian-cloud-6.12.toml")),
    ("debian-cloud-7.2.toml", include_str!("../recipes/debian-cloud-7.2.toml")),
    ("debian-6.1.toml", include_str!("../recipes/debian-6.1.toml")),
    ("debian-6.12.toml", include_str!("../recipes/debian-6.12.toml")),
    ("debian-soak-6.12.toml", include_str!("../recipes/debian-soak-6.12.toml")),
];
const USERSPACES: &[(&str, &str)] = &[
    ("rdma-core-44", include_str!("../recipes/rdma-core-44.toml")),
    ("soak", include_str!("../recipes/soak.toml")),
];
const CONFIGS: &[(&str, &str)] = &[
    ("linux-debug.config", include_str!("../recipes/linux-debug.config")),
    ("linux-debug-6.config", include_str!("../recipes/linux-debug-6.config")),
    ("linux-debug-7.config", include_str!("../recipes/linux-debug-7.config")),
];
const PROGRAMS: &[(&str, &str)] = &[
    ("dma-debug.h", include_str!("../programs/dma-debug.h")),
    ("dmalab/abi.h", include_str!("../drivers/dmalab/abi.h")),
    ("dmalab/attributes.c", include_str!("../programs/dmalab/attributes.c")),
    ("dmalab/attributes.h", include_str!("../programs/dmalab/attributes.h")),
    ("dmalab/hold.c", include_str!("../programs/dmalab/hold.c")),
    ("dmalab/hold.h", include_str!("../programs/dmalab/hold.h")),
    ("dmalab/libdmalab.c", include_str!("../programs/dmalab/libdmalab.c")),
    ("dmalab/libdmalab.h", include_str!("../programs/dmalab/libdmalab.h")),
    ("dmalab/main.c", include_str!("../programs/dmalab/main.c")),
    ("dmalab/shared.c", include_str!("../programs/dmalab/shared.c")),
    ("dmalab/soak.c", include_str!("../programs/dmalab/soak.c")),
    ("dmalab/soak.h", include_str!("../programs/dmalab/soak.h")),
    ("patterns.c", include_str!("../programs/patterns.c")),
    ("peer-walk/connection.c", include_str!("../programs/peer-walk/connection.c")),
    ("peer-walk/peer-walk.c", include_str!("../programs/peer-walk/peer-walk.c")),
    ("peer-walk/peer-walk.h", include_str!("../programs/peer-walk/peer-walk.h")),
    ("peer-walk/ring.c", include_str!("../programs/peer-walk/ring.c")),
    ("rdma-peer.h", include_str!("../programs/rdma-peer.h")),
    ("regtwice.c", include_str!("../programs/regtwice.c")),
    ("verbs-verify/checks.c", include_str!("../programs/verbs-verify/checks.c")),
    ("verbs-verify/completion.c", include_str!("../programs/verbs-verify/completion.c")),
    ("verbs-verify/events.c", include_str!("../programs/verbs-verify/events.c")),
    ("verbs-verify/extensions.c", include_str!("../programs/verbs-verify/extensions.c")),
    ("verbs-verify/faults.c", include_str!("../programs/verbs-verify/faults.c")),
    ("verbs-verify/losses.c", include_str!("../programs/verbs-verify/losses.c")),
    ("verbs-verify/main.c", include_str!("../programs/verbs-verify/main.c")),
    ("verbs-verify/message.c", include_str!("../programs/verbs-verify/message.c")),
    ("verbs-verify/mixed.c", include_str!("../programs/verbs-verify/mixed.c")),
    ("verbs-verify/objects.c", include_str!("../programs/verbs-verify/objects.c")),
    ("verbs-verify/pair.c", include_str!("../programs/verbs-verify/pair.c")),
    ("verbs-verify/pattern.c", include_str!("../programs/verbs-verify/pattern.c")),
    ("verbs-verify/transfers.c", include_str!("../programs/verbs-verify/transfers.c")),
    ("verbs-verify/verify.h", include_str!("../programs/verbs-verify/verify.h")),
];
const INIT_SOURCES: &[&str] = &[
    include_str!("../programs/staleline-init.c"),
    include_str!("../programs/syscalls.h"),
    include_str!("../programs/channel.h"),
];
const HOST_TOOLS: &str = include_str!("../recipes/host-tools.toml");

/// One image's recipe.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    pub name: String,
    /// One line for lists.
    pub summary: String,
    /// Kernel command line that the image wants.
    pub cmdline: String,
    /// What a user without Debian packages has to bring.
    pub bring_instead: String,
    /// Where the kernel's packages may come from: Debian releases in order of preference, each the list of its suites.
    /// Within one release the newest version counts.
    pub suites: Vec<Vec<String>>,
    pub estimate: Estimate,
    pub(crate) userspace: String,
    pub(crate) kernel: KernelRecipe,
}

/// What the first build costs, told before it starts.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    /// Minutes on two cores.
    pub minutes: u32,
    /// Largest use of the cache folder during the build, MiB.
    pub disk_mib: u64,
    pub download_mib: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum KernelRecipe {
    Source(SourceKernel),
    Package(PackageKernel),
}

/// Package versions `at_least <= version < below`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VersionRange {
    pub at_least: String,
    pub below: String,
}

impl VersionRange {
    pub fn contains(&self, version: &str) -> bool {
        deb_version::compare(version, &self.at_least) != Ordering::Less
            && deb_version::compare(version, &self.below) == Ordering::Less
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ">= {}, << {}", self.at_least, self.below)
    }
}

/// A kernel compiled from a `linux-source-*` package.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceKernel {
    pub package: String,
    pub version: VersionRange,
    /// The source archive's path inside the package.
    pub archive: String,
    /// Configuration fragments, merged over `allnoconfig`.
    pub configs: Vec<String>,
    pub tools: Vec<String>,
    pub archive_blocks: u64,
    pub build_steps: u64,
    /// `tar --exclude` patterns.
    pub exclude: Vec<String>,
    /// The only `arch/` folder whose sources are unpacked.
    pub keep_arch: String,
    #[serde(default)]
    pub check: Vec<SourceCheck>,
}

/// Something the source must or must not contain for the image to serve its purpose.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceCheck {
    pub file: String,
    pub contains: Option<String>,
    pub lacks: Option<String>,
    pub reason: String,
}

/// A kernel taken from a package as it is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PackageKernel {
    /// Package name patterns, in order of preference among equal versions. `*` stands for any text without a hyphen.
    pub packages: Vec<String>,
    /// Other packages of the same version that the kernel is spread over, with the same text for `*`.
    #[serde(default)]
    pub beside: Vec<String>,
    pub version: VersionRange,
    /// Modules to load at boot; what they depend on comes with them.
    pub modules: Vec<String>,
    pub tools: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Userspace {
    /// As [`Recipe::suites`].
    pub suites: Vec<Vec<String>>,
    pub packages: Vec<String>,
    pub busybox: String,
    /// Files of the packages that the guest gets.
    pub files: Vec<String>,
    /// The guest gets the packages whole, and the image keeps them unpacked for the host to run the same programs.
    #[serde(default)]
    pub whole: bool,
    /// Files and folders that are left out of whole packages.
    #[serde(default)]
    pub exclude: Vec<String>,
    #[serde(default)]
    pub program: Vec<Program>,
    #[serde(default)]
    pub text: Vec<TextFile>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Program {
    /// Its C files, which are compiled together, and the headers of ours that they include.
    pub sources: Vec<String>,
    pub to: String,
    pub libraries: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TextFile {
    pub to: String,
    pub content: String,
}

/// A program or library of the host that a kernel build needs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostTool {
    pub name: String,
    pub command: Option<String>,
    pub header: Option<String>,
    pub library: Option<String>,
    /// Packages that bring it; alternatives within one entry are separated by `|`.
    pub packages: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostTools {
    tool: Vec<HostTool>,
}

fn parse<'a, T: Deserialize<'a>>(file: &str, text: &'a str) -> Result<T> {
    toml::from_str(text).map_err(|error| Error::BadRecipe { file: file.into(), reason: error.to_string() })
}

fn lookup(table: &'static [(&str, &str)], name: &str) -> Result<&'static str> {
    table.iter().find(|(known, _)| *known == name).map(|(_, text)| *text).ok_or_else(|| Error::BadRecipe {
        file: name.into(),
        reason: "not among the files built into staleline".into(),
    })
}

/// All recipes, in the order in which lists show them.
pub(crate) fn all() -> Result<Vec<Recipe>> {
    RECIPES.iter().map(|(file, text)| parse(file, text)).collect()
}

/// Everything that compiling a kernel needs beside a C compiler and make. Absent ones are unpacked into the cache.
pub fn host_tools() -> Result<Vec<HostTool>> {
    parse::<HostTools>("host-tools.toml", HOST_TOOLS).map(|tools| tools.tool)
}

pub(crate) fn program_source(name: &str) -> Result<&'static str> {
    lookup(PROGRAMS, name)
}

fn kernel_config(name: &str) -> Result<&'static str> {
    lookup(CONFIGS, name)
}

impl Recipe {
    pub(crate) fn userspace(&self) -> Result<Userspace> {
        parse(&self.userspace, lookup(USERSPACES, &self.userspace)?)
    }

    /// Names of the packages that the image is made from, for messages.
    pub fn package_names(&self) -> Result<Vec<String>> {
        let mut names = match &self.kernel {
            KernelRecipe::Source(source) => {
                vec![format!("{} ({})", source.package, source.version)]
            }
            KernelRecipe::Package(package) => {
                vec![format!("{} ({})", package.packages.join(" or "), package.version)]
            }
        };
        names.extend(self.userspace()?.packages);
        Ok(names)
    }

    /// SHA-256 over everything that decides the image, in hex: recipe, configuration, user space, programs and init.
    /// Package versions are not part of it: they are recorded in the image's manifest.
    pub fn hash(&self) -> Result<String> {
        let recipe = lookup(RECIPES, &format!("{}.toml", self.name))?;
        let config = match &self.kernel {
            KernelRecipe::Source(source) => source.config()?,
            KernelRecipe::Package(_) => String::new(),
        };
        let mut parts = vec![FORMAT, recipe, &config, lookup(USERSPACES, &self.userspace)?];
        for source in self.userspace()?.program.iter().flat_map(|program| &program.sources) {
            parts.push(program_source(source)?);
        }
        parts.extend(INIT_SOURCES);
        Ok(hash_parts(&parts))
    }
}

impl SourceKernel {
    /// The configuration fragments as one.
    pub(crate) fn config(&self) -> Result<String> {
        self.configs.iter().map(|name| kernel_config(name)).collect()
    }

    /// SHA-256 over what decides the compiled kernel, in hex: images that differ only in user space share it.
    pub(crate) fn hash(&self) -> Result<String> {
        let checks = format!("{:?}", self.check);
        let config = self.config()?;
        let VersionRange { at_least, below } = &self.version;
        let mut parts = vec![FORMAT, &config, &self.package, at_least, below];
        parts.extend([self.archive.as_str(), self.keep_arch.as_str(), checks.as_str()]);
        parts.extend(self.exclude.iter().map(String::as_str));
        Ok(hash_parts(&parts))
    }
}

/// Each part is preceded by its length, so that text cannot move between parts unnoticed.
pub(crate) fn hash_parts(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_parses_and_its_parts_exist() {
        let recipes = all().unwrap();
        let tools = host_tools().unwrap();
        assert_eq!(
            recipes.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(),
            RECIPES.iter().map(|(file, _)| file.strip_suffix(".toml").unwrap()).collect::<Vec<_>>()
        );
        for recipe in &recipes {
            let userspace = recipe.userspace().unwrap();
            for program in &userspace.program {
                assert!(program.sources.iter().any(|source| source.ends_with(".c")), "{program:?}");
                for source in &program.sources {
                    program_source(source).unwrap();
                }
            }
            let wanted = match &recipe.kernel {
                KernelRecipe::Source(source) => {
                    source.config().unwrap();
                    assert!(source.check.iter().all(|c| c.contains.is_some() != c.lacks.is_some()));
                    &source.tools
                }
                KernelRecipe::Package(package) => &package.tools,
            };
            for tool in wanted {
                assert!(tools.iter().any(|known| known.name == *tool), "{tool}");
            }
            assert!(recipe.package_names().unwrap().len() > 5);
        }
    }

    #[test]
    fn hashes_are_stable_distinct_and_sensitive() {
        let recipes = all().unwrap();
        let hashes: Vec<_> = recipes.iter().map(|r| r.hash().unwrap()).collect();
        assert_eq!(hashes, all().unwrap().iter().map(|r| r.hash().unwrap()).collect::<Vec<_>>());
        assert!(hashes.iter().all(|hash| hash.len() == 64));
        assert_eq!(hashes.iter().collect::<std::collections::BTreeSet<_>>().len(), RECIPES.len());
        assert_ne!(hash_parts(&["ab", "c"]), hash_parts(&["a", "bc"]));
        assert_eq!(
            hash_parts(&[]),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "SHA-256 of nothing"
        );
    }

    #[test]
    fn ranges_exclude_their_end() {
        let range = VersionRange { at_least: "6.1".into(), below: "6.2".into() };
        assert!(range.contains("6.1-1") && range.contains("6.1.192-2") && range.contains("6.2~rc1-1"));
        assert!(!range.contains("6.2-1") && !range.contains("6.12.1-1") && !range.contains("6.0.9-1"));
        assert_eq!(range.to_string(), ">= 6.1, << 6.2");
    }

    #[test]
    fn unknown_keys_are_refused() {
        let text = format!("colour = 'red'\n{}", RECIPES[1].1);
        assert!(
            matches!(parse::<Recipe>("x.toml", &text), Err(Error::BadRecipe { file, .. }) if file == "x.toml")
        );
    }
}
