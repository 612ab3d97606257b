//! Guest images: kernels, initramfs and guest programs, built from recipes (data) into a cache outside the checkout.
//!
//! [`Store`] is the entry: it lists recipes, answers where a built image lies and builds an absent one, without root,
//! from the Debian mirror that the machine's own apt configuration names. [`work_archive`] is the small archive that
//! the VMM appends to any initramfs to have it run a command, which goes there by the [`channel`] as does what it prints.

mod apt;
pub mod bare_metal;
mod builder;
pub mod channel;
mod command;
mod cpio;
mod deb_version;
mod drivers;
mod error;
mod host;
mod image;
mod initramfs;
mod kernel;
mod kernel_source;
mod lock;
mod module_build;
mod module_tree;
mod modules;
pub mod progress;
mod recipe;
mod releases;
mod runner;
mod sources_list;
mod store;
mod tools;
mod transfer;

pub use command::{append_archive, file_archive, files_archive, init_binary, work_archive};
pub use drivers::driver_sources;
pub use error::{Error, Result};
pub use host::Host;
pub use image::{Image, Manifest, PackageVersion};
pub use kernel_source::{KernelTree, TreeKernel};
pub use recipe::{HostTool, Recipe, host_tools};
pub use sources_list::{Mirrors, Source};
pub use store::Store;
