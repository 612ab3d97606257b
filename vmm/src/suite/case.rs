//! Cases: a scenario at one point of its matrix with one seed, and the command line that runs it.

use super::matrix::Cell;
use super::scenario::Scenario;
use super::seeds::Seeds;
use super::steps;
use crate::quantity::parse_size;
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;

/// Bytes of RAM of a guest that does not say: what `--memory` is by default.
const USUAL_MEMORY: u64 = 512 << 20;

/// A scenario at one point of its matrix with one seed.
#[derive(Debug, Clone)]
pub struct Case {
    /// `SCENARIO[/CELL]/seed-N`: its name, and its folder among the artefacts.
    pub id: String,
    pub scenario: Arc<Scenario>,
    pub cell: Cell,
    pub seed: u64,
}

/// What a guest is given that had to be built first.
#[derive(Debug, Clone, Default)]
pub struct Built {
    /// The image's own command line; none if the kernel is a file.
    pub cmdline: Option<String>,
    /// Kernel modules.
    pub modules: Vec<PathBuf>,
}

/// The cases of a scenario, with other seeds than its own if `seeds` says so.
#[must_use]
pub fn cases(scenario: &Arc<Scenario>, seeds: Option<&Seeds>) -> Vec<Case> {
    let seeds = &seeds.unwrap_or(&scenario.seeds).0;
    // The scenario was checked when it was read.
    let cells = scenario.cells().unwrap_or_default();
    let of_cell = |cell: Cell| {
        let name = &scenario.name;
        let place = if cell.name.is_empty() { name.clone() } else { format!("{name}/{}", cell.name) };
        seeds.iter().map(move |&seed| Case {
            id: format!("{place}/seed-{seed}"),
            scenario: Arc::clone(scenario),
            cell: cell.clone(),
            seed,
        })
    };
    cells.into_iter().flat_map(of_cell).collect()
}

impl Case {
    /// Bytes of the guest's RAM.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.cell.guest.memory.as_deref().and_then(|size| parse_size(size).ok()).unwrap_or(USUAL_MEMORY)
    }

    /// Virtual seconds, from power-on, after which it is over.
    #[must_use]
    pub fn deadline(&self) -> f64 {
        self.scenario.deadline.0
    }

    /// `SCENARIO[/CELL]`.
    #[must_use]
    pub fn place(&self) -> &str {
        self.id.rsplit_once('/').map_or(&self.id, |(place, _)| place)
    }

    /// Whether the kernel is an image, not a file.
    #[must_use]
    pub fn has_image(&self) -> bool {
        self.cell.guest.kernel.as_ref().is_none_or(|kernel| !kernel.contains('/'))
    }

    /// The name of the image, if one is named.
    #[must_use]
    pub fn image(&self) -> Option<&str> {
        self.cell.guest.kernel.as_deref().filter(|_| self.has_image())
    }

    /// A path that the scenario names, which starts from its folder.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        let path = self.scenario.folder.join(path);
        absolute(&path).unwrap_or(path)
    }

    /// The arguments of `staleline` that run it.
    #[must_use]
    pub fn arguments(&self, built: &Built) -> Vec<String> {
        let has_mark = self.has_mark();
        let mut line = self.boot_arguments(built);
        line.extend([if has_mark { "--ready-seed" } else { "--seed" }.into(), self.seed.to_string()]);
        line.extend(["--deadline".into(), self.deadline().to_string()]);
        if has_mark {
            line.extend(["--", "sh", "-c"].map(str::to_owned));
            // The scenario was checked when it was read.
            let wants_log = self.scenario.expectation(&self.cell).is_ok_and(|expected| expected.wants_log());
            line.push(steps::script(&self.scenario.steps, wants_log));
        }
        line
    }

    /// Whether the guest is told at its ready mark what to run: up to there all seeds are one boot.
    #[must_use]
    pub fn has_mark(&self) -> bool {
        !self.scenario.steps.is_empty()
    }

    /// Those of its arguments that decide what happens up to the guest's ready mark, if it has one.
    #[must_use]
    pub fn boot_arguments(&self, built: &Built) -> Vec<String> {
        let guest = &self.cell.guest;
        let mut line: Vec<String> = ["run", "--engine", "soft"].map(str::to_owned).into();
        let mut add = |option: &str, value: Option<String>| {
            if let Some(value) = value {
                line.extend([format!("--{option}"), value]);
            }
        };
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let file = |path: &String| text(&self.path(path));
        let kernel = guest.kernel.as_ref().map(|kernel| match self.image() {
            Some(image) => image.to_owned(),
            None => file(kernel),
        });
        let cmdline = match (&built.cmdline, &guest.cmdline) {
            (Some(own), Some(more)) => Some(crate::boot::cmdline::append(own, more)),
            (_, more) => more.clone(),
        };
        add("arch", guest.arch.clone());
        add("kernel", kernel);
        add("kernel-source", guest.kernel_source.as_ref().map(file));
        add("initrd", guest.initrd.as_ref().map(file));
        add("cmdline", cmdline);
        add("memory", guest.memory.clone());
        add("cpus", guest.cpus.map(|cpus| cpus.to_string()));
        guest.devices.iter().for_each(|device| add("device", Some(device.clone())));
        guest.files.iter().for_each(|file| add("file", Some(text(&self.path(file)))));
        for module in &built.modules {
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            add("file", Some(format!("{}:/{name}", text(module))));
        }
        add("cache", guest.cache.clone());
        add("iommu", guest.iommu.clone());
        add("confidential", guest.confidential.clone());
        add("dma", guest.dma.clone());
        line
    }
}

/// The arguments as a line of shell.
#[must_use]
pub fn shell_line(arguments: &[String]) -> String {
    let words = arguments.iter().map(|word| steps::quote(word)).collect::<Vec<_>>().join(" ");
    format!("staleline {words}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_a_command_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.toml");
        let text = "bug = 'b'\nsource = 's'\nseeds = '1..2'\n[guest]\nkernel = 'linux-6.12-debug'\ncmdline = 'quiet'\n\
                    devices = ['mlx5']\nfiles = ['data:/data']\n[matrix]\nmemory = ['512M', '1G']\n[[step]]\nrun = ['a b']";
        std::fs::write(&file, text).unwrap();
        let scenario = Arc::new(Scenario::read(&file).unwrap());
        let cases = cases(&scenario, None);
        let ids: Vec<_> = cases.iter().map(|case| &*case.id).collect();
        assert_eq!(
            ids,
            ["x/memory=512M/seed-1", "x/memory=512M/seed-2", "x/memory=1G/seed-1", "x/memory=1G/seed-2"]
        );
        let built = Built { cmdline: Some("console=ttyS0".into()), modules: vec!["/m/k.ko".into()] };
        let line = shell_line(&cases[2].arguments(&built));
        let data = folder.path().join("data:/data");
        let expected = format!(
            "staleline run --engine soft --kernel linux-6.12-debug --cmdline 'console=ttyS0 quiet' --memory 1G --device mlx5 \
             --file {} --file /m/k.ko:/k.ko --ready-seed 1 --deadline 60 -- sh -c '",
            data.display()
        );
        assert!(line.starts_with(&expected), "{line}");
        assert_eq!(cases[2].memory(), 1 << 30);
    }
}
