//! The image cache: where it is, what is in it, whether a build has room.

use super::{Item, Section};
use guest_images::{Host, Recipe, Store};
use std::path::Path;

/// The image that the main job, `repro`, boots.
const MAIN_IMAGE: &str = "linux-6.12-debug";

pub(super) struct Cache {
    pub section: Section,
    pub main_image_built: bool,
}

pub(super) fn examine(store: &Result<Store, guest_images::Error>, host: &Host) -> Cache {
    let title = "image cache".to_owned();
    let store = match store {
        Ok(store) => store,
        Err(error) => {
            let item = Item::missing("folder", error.to_string()).advise("set HOME or XDG_CACHE_HOME");
            return Cache { section: Section { title, items: vec![item] }, main_image_built: false };
        }
    };
    let mut items = vec![Item::ok("folder", store.folder().display().to_string())];
    let mut absent: Vec<&Recipe> = Vec::new();
    for recipe in store.recipes() {
        match store.path(&recipe.name) {
            Ok(Some(image)) => {
                items.push(Item::ok(&recipe.name, format!("built: Linux {}", image.manifest.kernel_release)))
            }
            Ok(None) => {
                let cost = &recipe.estimate;
                items.push(Item::ok(
                    &recipe.name,
                    format!(
                        "not built; its first use takes about {} min and loads {} MiB",
                        cost.minutes, cost.download_mib
                    ),
                ));
                absent.push(recipe);
            }
            Err(error) => items.push(Item::missing(&recipe.name, error.to_string())),
        }
    }
    let needed = absent.iter().map(|recipe| recipe.estimate.disk_mib).max();
    items.insert(1, space(store.folder(), host, needed));
    let main_image_built = matches!(store.path(MAIN_IMAGE), Ok(Some(_)));
    Cache { section: Section { title, items }, main_image_built }
}

/// Whether the largest build still to do has room. `needed` in MiB; `None` if nothing is left to build.
fn space(folder: &Path, host: &Host, needed: Option<u64>) -> Item {
    // The folder may not exist yet: what it will be made in decides.
    let existing = folder.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(folder);
    if needed.is_some() && !writable(existing, host) {
        return Item::missing("free space", format!("{} cannot be written", existing.display()))
            .advise("set XDG_CACHE_HOME to a folder that you may write");
    }
    let wanted = match needed {
        Some(needed) => format!("the largest build needs {needed} MiB"),
        None => "nothing is left to build".to_owned(),
    };
    match (host.free_mib(existing), needed) {
        (None, _) => Item::warn("free space", format!("unknown; {wanted}")),
        (Some(free), Some(needed)) if free < needed => {
            Item::missing("free space", format!("{free} MiB; {wanted}"))
                .advise("make room, or set XDG_CACHE_HOME to a folder on another disk")
        }
        (Some(free), _) => Item::ok("free space", format!("{free} MiB; {wanted}")),
    }
}

/// Asks as access(2) does, so that read-only file systems and other users' folders are seen without writing anything.
fn writable(folder: &Path, host: &Host) -> bool {
    let Some(shell) = host.find("sh") else { return true };
    let test = std::process::Command::new(shell)
        .args(["-c", "test -w \"$0\" && test -x \"$0\""])
        .arg(folder)
        .status();
    test.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn an_empty_cache_names_folder_space_and_what_builds_cost() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("not/yet/there");
        let cache = examine(&Store::open(Some(place.clone())), &Host::this_machine());
        assert!(!cache.main_image_built);
        let items = &cache.section.items;
        assert_eq!(items[0].finding, place.display().to_string());
        assert_eq!(items[1].what, "free space");
        assert!(items[1].finding.contains("the largest build needs"), "{}", items[1].finding);
        let main = items.iter().find(|item| item.what == MAIN_IMAGE).unwrap();
        assert!(main.finding.starts_with("not built") && main.finding.contains("min"), "{}", main.finding);
        assert!(!place.exists(), "a doctor writes nothing");
    }

    #[test]
    fn too_little_space_is_missing_only_for_builds_to_do() {
        let host = Host::this_machine();
        let folder = tempfile::tempdir().unwrap();
        let item = space(folder.path(), &host, Some(u64::MAX));
        assert_eq!(item.status, Status::Missing);
        assert!(item.advice.unwrap().contains("XDG_CACHE_HOME"));
        assert_eq!(space(folder.path(), &host, None).status, Status::Ok);
        let without_tools = Host { path: Default::default(), root: "/".into() };
        assert_eq!(space(folder.path(), &without_tools, Some(1)).status, Status::Warn);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_told() {
        let host = Host::this_machine();
        // Not even root writes in there.
        let item = space(Path::new("/proc/staleline"), &host, Some(1));
        assert_eq!(item.status, Status::Missing, "{}", item.finding);
    }

    #[test]
    fn no_cache_folder_is_told() {
        let cache = examine(&Err(guest_images::Error::NoCacheFolder), &Host::this_machine());
        assert!(!cache.section.holds() && !cache.main_image_built);
    }
}
