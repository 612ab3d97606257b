//! Which functions are followed, and what is known of them: data, in `functions.toml`.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::sync::LazyLock;

/// A version of Linux: major and minor number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl Version {
    /// The oldest whose functions are known.
    pub const OLDEST: Self = Self(6, 1);

    /// That of a release as uname -r says it: `6.12.117-staleline`.
    #[must_use]
    pub fn of_release(release: &str) -> Option<Self> {
        let mut numbers = release.split(|character: char| !character.is_ascii_digit());
        let mut next = || numbers.next()?.parse().ok();
        Some(Self(next()?, next()?))
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::of_release(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no version of Linux")))
    }
}

/// A range of versions.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
struct Versions {
    since: Option<Version>,
    before: Option<Version>,
}

impl Versions {
    fn contain(self, version: Version) -> bool {
        self.since.is_none_or(|since| since <= version) && self.before.is_none_or(|before| version < before)
    }
}

/// What a call comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Does {
    Map,
    MapResource,
    MapList,
    MapTable,
    Allocate,
    AllocatePages,
    AllocateTable,
    /// Of a pool.
    AllocateBlock,
    /// A part of a range of I/O virtual addresses.
    Link,
    Unmap,
    UnmapList,
    Free,
    FreeTable,
    FreeBlock,
    Unlink,
    Destroy,
    SyncForCpu,
    SyncForDevice,
    SyncListForCpu,
    SyncListForDevice,
    /// Gets a bounce buffer, and copies to it.
    Bounce,
    /// Copies from a bounce buffer, and gives it back.
    Unbounce,
    /// Copies from a bounce buffer, or to it.
    BounceForCpu,
    BounceForDevice,
    /// Prints the entries of dma-debug.
    Dump,
}

impl Does {
    /// Whether what it has done is known only when it returns.
    #[must_use]
    pub fn is_known_at_return(self) -> bool {
        matches!(
            self,
            Self::Map
                | Self::MapResource
                | Self::MapList
                | Self::MapTable
                | Self::Allocate
                | Self::AllocatePages
                | Self::AllocateTable
                | Self::AllocateBlock
                | Self::Link
                | Self::Bounce
        )
    }

    /// Whether it is about bounce buffers.
    #[must_use]
    pub fn bounces(self) -> bool {
        matches!(self, Self::Bounce | Self::Unbounce | Self::BounceForCpu | Self::BounceForDevice)
    }

    /// Whether it ends mappings.
    #[must_use]
    pub fn ends(self) -> bool {
        matches!(
            self,
            Self::Unmap
                | Self::UnmapList
                | Self::Free
                | Self::FreeTable
                | Self::FreeBlock
                | Self::Unlink
                | Self::Destroy
        )
    }

    /// Whether it hands over what is mapped already.
    #[must_use]
    pub fn is_sync(self) -> bool {
        matches!(
            self,
            Self::SyncForCpu | Self::SyncForDevice | Self::SyncListForCpu | Self::SyncListForDevice
        )
    }
}

/// What an argument is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Argument {
    /// `struct device *`.
    Device,
    /// `struct page *`.
    Page,
    /// In a page, or in a range of I/O virtual addresses.
    Offset,
    /// Guest-physical address.
    Physical,
    Size,
    Direction,
    Attributes,
    /// `struct scatterlist *`.
    List,
    /// Elements of the list.
    Count,
    /// `struct sg_table *`.
    Table,
    /// Where the DMA address goes.
    Handle,
    /// DMA address.
    Address,
    /// Linear address.
    Virtual,
    /// `struct dma_pool *`.
    Pool,
    /// `struct dma_iova_state *`.
    State,
    Flags,
    /// Bytes that a bounce buffer is to have.
    Allocated,
    /// One less than what its length is a multiple of.
    Alignment,
}

/// A function.
#[derive(Debug, Deserialize)]
pub struct Function {
    pub name: String,
    #[serde(flatten)]
    versions: Versions,
    /// Its absence means nothing.
    #[serde(default)]
    pub optional: bool,
    /// A function of the same file: there are several of this name.
    pub near: Option<String>,
    pub does: Does,
    pub arguments: Vec<Argument>,
}

impl Function {
    /// Which argument, from 0, is `wanted`.
    #[must_use]
    pub fn position(&self, wanted: Argument) -> Option<usize> {
        self.arguments.iter().position(|&argument| argument == wanted)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UserMemory {
    functions: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Tables {
    function: Vec<Function>,
    user_memory: UserMemory,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    // A file of ours, read by a test: it has no error.
    toml::from_str(include_str!("functions.toml"))
        .unwrap_or_else(|error| unreachable!("functions.toml: {error}"))
});

/// The functions of `version`.
pub fn of_version(version: Version) -> impl Iterator<Item = &'static Function> {
    TABLES.function.iter().filter(move |function| function.versions.contain(version))
}

/// The function of `version` called `name`.
#[must_use]
pub fn named(name: &str, version: Version) -> Option<&'static Function> {
    of_version(version).find(|function| function.name == name)
}

/// Functions that map an application's memory.
#[must_use]
pub fn of_user_memory() -> &'static [String] {
    &TABLES.user_memory.functions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(Version::of_release("6.12.117-staleline"), Some(Version(6, 12)));
        assert_eq!(Version::of_release("7.2-rc1"), Some(Version(7, 2)));
        assert_eq!((Version::of_release("6"), Version::of_release("next")), (None, None));
        assert!(Version(6, 2) < Version(6, 10));
    }

    #[test]
    fn each_series_has_its_functions() {
        let names = |version| of_version(version).map(|function| &*function.name).collect::<Vec<_>>();
        let (old, middle, new) = (names(Version(6, 1)), names(Version(6, 12)), names(Version(7, 2)));
        for (name, there) in [
            ("dma_map_page_attrs", (true, true, false)),
            ("dma_map_phys", (false, false, true)),
            ("dma_sync_single_for_cpu", (true, false, false)),
            ("__dma_sync_single_for_cpu", (false, true, true)),
            ("dma_pool_alloc", (true, true, true)),
            ("swiotlb_tbl_unmap_single", (true, false, false)),
            ("__swiotlb_tbl_unmap_single", (false, true, true)),
        ] {
            let found = (old.contains(&name), middle.contains(&name), new.contains(&name));
            assert_eq!(found, there, "{name}");
        }
        assert_eq!(
            named("dma_free_attrs", Version::OLDEST).and_then(|free| free.position(Argument::Address)),
            Some(3)
        );
    }
}
