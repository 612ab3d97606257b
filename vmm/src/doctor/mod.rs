//! What this host can do: engines, memory, tools for building images, the package mirror, the image cache.
//!
//! [`examine`] looks and writes nothing; every step has a time limit, so that the whole takes a few seconds at most.

pub mod kvm_probe;

mod cache;
mod engines;
mod mirror;
mod probe_guest;
mod resources;
mod table;
mod tools;

#[cfg(test)]
mod tests;

use guest_images::{Host, Store};
use serde::Serialize;
use std::path::PathBuf;

pub use table::{Style, print, print_to_stdout};

/// The exit status for "cannot test" that all commands share.
const CANNOT_TEST: i32 = 125;

/// Where to look.
#[derive(Clone, Debug)]
pub struct Options {
    /// The image cache; by default the one that `run` and `repro` use.
    pub cache: Option<PathBuf>,
    /// Leaves the package mirror alone.
    pub offline: bool,
    /// The search path for programs and the root of the file system.
    pub host: Host,
    /// KVM's device.
    pub kvm: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache: None,
            offline: false,
            host: Host::this_machine(),
            kvm: PathBuf::from(kvm_probe::DEVICE),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    /// Works with a limit, or is not needed for the main job.
    Warn,
    /// Something that is needed is not there.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    pub status: Status,
    pub what: String,
    pub finding: String,
    /// What the user can do about it.
    pub advice: Option<String>,
}

impl Item {
    fn new(status: Status, what: impl Into<String>, finding: impl Into<String>) -> Self {
        Self { status, what: what.into(), finding: finding.into(), advice: None }
    }

    fn ok(what: impl Into<String>, finding: impl Into<String>) -> Self {
        Self::new(Status::Ok, what, finding)
    }

    fn warn(what: impl Into<String>, finding: impl Into<String>) -> Self {
        Self::new(Status::Warn, what, finding)
    }

    fn missing(what: impl Into<String>, finding: impl Into<String>) -> Self {
        Self::new(Status::Missing, what, finding)
    }

    fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Section {
    pub title: String,
    pub items: Vec<Item>,
}

impl Section {
    /// Whether nothing in it is missing.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.items.iter().all(|item| item.status != Status::Missing)
    }
}

/// What this host can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    pub sections: Vec<Section>,
    /// A kernel that the user brings runs here.
    pub can_run: bool,
    /// All images can be built here.
    pub can_build: bool,
    /// `repro` works here: its image is built already or can be built.
    pub can_repro: bool,
}

impl Report {
    /// 0 if the main job, `repro`, can work here, otherwise 125.
    #[must_use]
    pub fn exit_status(&self) -> i32 {
        if self.can_repro { 0 } else { CANNOT_TEST }
    }
}

/// Bytes of memory that this process may still use, if the host says so.
#[must_use]
pub fn available_memory() -> Option<u64> {
    resources::available_mib(&Host::this_machine()).map(|mib| mib << 20)
}

/// Looks at everything. Takes at most a few seconds and writes nothing.
#[must_use]
pub fn examine(options: &Options) -> Report {
    let host = &options.host;
    let store = Store::open(options.cache.clone());
    let tools_folder = store.as_ref().ok().map(Store::tools_folder);
    // These wait for other programs, the network and KVM.
    let (tools, mirrors, kvm) = std::thread::scope(|scope| {
        let mirrors = scope.spawn(|| mirror::examine(host, options.offline));
        let kvm = scope.spawn(|| kvm_probe::probe(&options.kvm));
        let tools = tools::examine(host, tools_folder.as_deref());
        (tools, mirrors.join(), kvm.join())
    });
    let mirrors = mirrors.unwrap_or_else(|_| vec![Item::missing("mirror", "the check failed")]);
    let kvm = kvm.unwrap_or_else(|_| kvm_probe::Kvm::Unusable { reason: "the probe failed".into() });

    let engines = engines::examine(options, &kvm);
    let resources = resources::examine(host);
    let builds = Section { title: "building images".into(), items: [tools, mirrors].concat() };
    let cache = cache::examine(&store, host);
    let can_run = engines.holds() && resources.holds();
    let can_build = builds.holds() && cache.section.holds();
    let can_repro = can_run && (cache.main_image_built || can_build);
    Report { sections: vec![engines, resources, builds, cache.section], can_run, can_build, can_repro }
}
