//! Cases: a scenario at one point of its matrix with one seed, and the command line that runs it.

use super::matrix::Cell;
use super::scenario::Scenario;
use super::source::ScenarioError;
use super::steps;
use crate::guest_file::parse_file;
use crate::machine::DeviceSpec;
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;

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
    /// What a source tree has come to.
    pub kernel: Option<PathBuf>,
    /// Goes with that kernel, unless the guest has one of its own.
    pub initrd: Option<PathBuf>,
    /// Kernel modules.
    pub modules: Vec<PathBuf>,
}

/// The cases of a scenario.
#[must_use]
pub fn cases(scenario: &Arc<Scenario>) -> Vec<Case> {
    let seeds = &scenario.seeds.0;
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

    /// Whether the guest is an image: its kernel is not a file, and it is not restored.
    #[must_use]
    pub fn has_image(&self) -> bool {
        let guest = &self.cell.guest;
        guest.restore.is_none() && guest.kernel.as_ref().is_none_or(|kernel| !kernel.contains('/'))
    }

    /// The name of the image, if one is named.
    #[must_use]
    pub fn image(&self) -> Option<&str> {
        self.cell.guest.kernel.as_deref().filter(|_| self.has_image())
    }

    /// A path that the scenario names, which starts from its folder.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        let path = self.scenario.folder().join(path);
        absolute(&path).unwrap_or(path)
    }

    /// The devices, with the paths of their files as [`Case::path`] has them.
    fn devices(&self) -> impl Iterator<Item = (&str, DeviceSpec)> {
        let folder = self.path("");
        // They were parsed when the scenario was read.
        let parsed = |device: &String| device.parse::<DeviceSpec>().ok();
        let devices = self.cell.guest.devices.iter();
        devices.filter_map(move |device| Some((device.as_str(), parsed(device)?.with_files_in(&folder))))
    }

    /// Looks for every file and folder of the host that it names.
    ///
    /// # Errors
    /// [`ScenarioError`] with the place of the first that is not there.
    pub fn check_files(&self) -> Result<(), ScenarioError> {
        let guest = &self.cell.guest;
        let kernel = if self.has_image() { &[] } else { guest.kernel.as_slice() };
        let plain = [
            ("kernel", kernel),
            ("initrd", guest.initrd.as_slice()),
            ("restore", guest.restore.as_slice()),
            ("kernel-source", guest.kernel_source.as_slice()),
            ("modules", &guest.modules),
        ];
        for (key, values) in plain {
            values.iter().try_for_each(|value| self.check_file(key, value, &self.path(value)))?;
        }
        for value in &guest.files {
            // It was parsed when the scenario was read.
            let (host, _) = parse_file(value).unwrap_or_default();
            self.check_file("files", value, &self.path(&host.to_string_lossy()))?;
        }
        for (value, device) in self.devices() {
            device.files().try_for_each(|file| self.check_file("devices", value, file))?;
        }
        Ok(())
    }

    fn check_file(&self, key: &str, value: &str, path: &Path) -> Result<(), ScenarioError> {
        let missing = |error| self.scenario.error_at(key, value, &format!("{}: {error}", path.display()));
        std::fs::metadata(path).map(|_| ()).map_err(missing)
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
            line.push(steps::script(&self.scenario.steps, self.scenario.wants_log(&self.cell)));
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
        let (kernel, tree) = match &built.kernel {
            Some(built) => (Some(text(built)), None),
            None => (kernel, guest.kernel_source.as_ref().map(file)),
        };
        let initrd = guest.initrd.as_ref().map(file).or_else(|| built.initrd.as_deref().map(text));
        let cmdline = match (&built.cmdline, &guest.cmdline) {
            (Some(own), Some(more)) => Some(crate::boot::cmdline::append(own, more)),
            (_, more) => more.clone(),
        };
        add("arch", guest.arch.clone());
        add("kernel", kernel);
        add("kernel-source", tree);
        add("initrd", initrd);
        add("restore", guest.restore.as_ref().map(file));
        add("cmdline", cmdline);
        add("memory", guest.memory.clone());
        add("cpus", guest.cpus.map(|cpus| cpus.to_string()));
        self.devices().for_each(|(_, device)| add("device", Some(device.to_string())));
        guest.files.iter().for_each(|file| add("file", Some(text(&self.path(file)))));
        for module in &built.modules {
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            add("file", Some(format!("{}:/{name}", text(module))));
        }
        add("cache", guest.cache.as_deref().map(|spec| self.cache(spec)));
        add("iommu", guest.iommu.clone());
        add("confidential", guest.confidential.clone());
        add("dma", guest.dma.clone());
        add("ledger", guest.ledger.clone());
        line
    }

    /// `cache` with the path of its file.
    fn cache(&self, spec: &str) -> String {
        let words = spec.split(',').map(|word| match word.strip_prefix("pages=") {
            Some(file) => format!("pages={}", self.path(file).display()),
            None => word.to_owned(),
        });
        words.collect::<Vec<_>>().join(",")
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
        let cases = cases(&scenario);
        let ids: Vec<_> = cases.iter().map(|case| &*case.id).collect();
        assert_eq!(
            ids,
            ["x/memory=512M/seed-1", "x/memory=512M/seed-2", "x/memory=1G/seed-1", "x/memory=1G/seed-2"]
        );
        let built = Built {
            cmdline: Some("console=ttyS0".into()),
            modules: vec!["/m/k.ko".into()],
            ..Built::default()
        };
        let line = shell_line(&cases[2].arguments(&built));
        let data = folder.path().join("data:/data");
        let expected = format!(
            "staleline run --engine soft --kernel linux-6.12-debug --cmdline 'console=ttyS0 quiet' --memory 1G --device mlx5 \
             --file {} --file /m/k.ko:/k.ko --ready-seed 1 --deadline 60 -- sh -c '",
            data.display()
        );
        assert!(line.starts_with(&expected), "{line}");
    }
}
