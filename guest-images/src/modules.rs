//! Kernel modules of a packaged kernel: their dependencies, from the modules themselves (packages carry no modules.dep).

use object::read::elf::ElfFile64;
use object::{Object, ObjectSection};
use std::collections::BTreeMap;

/// The names that a module's `.modinfo` lists under `depends=`, normalised; `None` if it is no module.
pub(crate) fn depends(module: &[u8]) -> Option<Vec<String>> {
    let file: ElfFile64 = ElfFile64::parse(module).ok()?;
    let info = file.section_by_name(".modinfo")?.data().ok()?;
    let list = info.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"depends="))?;
    Some(split_names(&String::from_utf8_lossy(list)))
}

fn split_names(list: &str) -> Vec<String> {
    list.split(',').filter(|name| !name.is_empty()).map(normalise).collect()
}

/// Module names use `_` where file names may have `-`.
pub(crate) fn normalise(name: &str) -> String {
    name.replace('-', "_")
}

/// A module's name from its file's: `mlx5_core.ko.xz` is `mlx5_core`. `None` for other files.
pub(crate) fn name_of(file: &str) -> Option<String> {
    let stem = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().find_map(|suffix| file.strip_suffix(suffix))?;
    Some(normalise(stem))
}

/// The order in which to load `wanted` and all they depend on: dependencies first, each once. A cycle, which the kernel
/// could not load either, is cut where it closes. `Err` names a module that is not there.
pub(crate) fn load_order(
    wanted: &[String],
    mut depends_on: impl FnMut(&str) -> Option<Vec<String>>,
) -> Result<Vec<String>, String> {
    let mut order = Vec::new();
    let mut known: BTreeMap<String, ()> = BTreeMap::new();
    // Each entry is a module, and whether its dependencies are done.
    let mut stack: Vec<(String, bool)> = wanted.iter().rev().map(|name| (normalise(name), false)).collect();
    while let Some((name, ready)) = stack.pop() {
        if ready {
            order.push(name);
        } else if known.insert(name.clone(), ()).is_none() {
            let needs = depends_on(&name).ok_or_else(|| name.clone())?;
            stack.push((name, true));
            stack.extend(needs.into_iter().rev().map(|need| (need, false)));
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(wanted: &[&str], graph: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        load_order(&wanted, |name| {
            graph.iter().find(|(known, _)| *known == name).map(|(_, list)| split_names(list))
        })
    }

    #[test]
    fn dependencies_load_first_and_once() {
        let graph = [
            ("mlx5_ib", "ib_core,mlx5_core,ib_uverbs"),
            ("mlx5_core", "mlxfw,pci-hyperv-intf"),
            ("ib_uverbs", "ib_core"),
            ("ib_core", ""),
            ("mlxfw", ""),
            ("pci_hyperv_intf", ""),
        ];
        assert_eq!(
            order(&["mlx5-core", "mlx5_ib"], &graph).unwrap(),
            ["mlxfw", "pci_hyperv_intf", "mlx5_core", "ib_core", "ib_uverbs", "mlx5_ib"]
        );
        assert_eq!(order(&["mlx5_ib"], &graph[..1]), Err("ib_core".into()));
        assert_eq!(order(&["a"], &[("a", "b"), ("b", "a")]).unwrap(), ["b", "a"], "a cycle ends");
    }

    #[test]
    fn names_of_files() {
        assert_eq!(name_of("pci-hyperv-intf.ko.xz").as_deref(), Some("pci_hyperv_intf"));
        assert_eq!(name_of("modules.dep"), None);
        assert_eq!(depends(b"not an ELF file"), None);
    }
}
