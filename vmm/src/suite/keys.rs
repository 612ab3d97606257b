//! The keys that say what guest a scenario has: those of `staleline run`.

use super::text::Text;
use crate::guest_file::parse_file;
use crate::machine::{CPUS_MAX, DeviceSpec};
use crate::quantity::parse_size;
use serde::{Deserialize, Deserializer, de};

/// What to boot. Each key is the option of `staleline run` with its name; none is that option's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Keys {
    pub arch: Option<String>,
    /// An image, or a file (a path has a slash in it).
    pub kernel: Option<String>,
    pub kernel_source: Option<String>,
    pub initrd: Option<String>,
    /// A machine that `staleline run --save` has written, instead of one that boots.
    pub restore: Option<String>,
    /// Appended to the image's command line.
    #[serde(deserialize_with = "cmdline")]
    pub cmdline: Option<String>,
    #[serde(deserialize_with = "memory")]
    pub memory: Option<String>,
    #[serde(deserialize_with = "cpus")]
    pub cpus: Option<u32>,
    #[serde(deserialize_with = "devices")]
    pub devices: Vec<String>,
    /// `HOST:GUEST`.
    #[serde(deserialize_with = "files")]
    pub files: Vec<String>,
    /// Folders of kernel modules to build for the image; each `NAME.ko` is in the guest's root folder.
    #[serde(deserialize_with = "texts")]
    pub modules: Vec<String>,
    pub cache: Option<String>,
    pub iommu: Option<String>,
    pub confidential: Option<String>,
    pub dma: Option<String>,
    pub ledger: Option<String>,
}

impl Keys {
    /// Adds what `more` says: command line, devices, files and modules are added, anything else is replaced.
    pub(super) fn add(&mut self, more: &Self) {
        let replace = |to: &mut Option<String>, from: &Option<String>| {
            if from.is_some() {
                to.clone_from(from);
            }
        };
        replace(&mut self.arch, &more.arch);
        replace(&mut self.kernel, &more.kernel);
        replace(&mut self.kernel_source, &more.kernel_source);
        replace(&mut self.initrd, &more.initrd);
        replace(&mut self.restore, &more.restore);
        replace(&mut self.memory, &more.memory);
        replace(&mut self.cache, &more.cache);
        replace(&mut self.iommu, &more.iommu);
        replace(&mut self.confidential, &more.confidential);
        replace(&mut self.dma, &more.dma);
        replace(&mut self.ledger, &more.ledger);
        self.cpus = more.cpus.or(self.cpus);
        if let Some(words) = &more.cmdline {
            let line = self.cmdline.take().unwrap_or_default();
            self.cmdline = Some(crate::boot::cmdline::append(&line, words));
        }
        self.devices.extend_from_slice(&more.devices);
        self.files.extend_from_slice(&more.files);
        self.modules.extend_from_slice(&more.modules);
    }

    /// The keys set here that would replace others' values.
    pub(super) fn replaced(&self) -> impl Iterator<Item = &'static str> {
        let set = [
            ("arch", self.arch.is_some()),
            ("kernel", self.kernel.is_some()),
            ("kernel-source", self.kernel_source.is_some()),
            ("initrd", self.initrd.is_some()),
            ("restore", self.restore.is_some()),
            ("memory", self.memory.is_some()),
            ("cpus", self.cpus.is_some()),
            ("cache", self.cache.is_some()),
            ("iommu", self.iommu.is_some()),
            ("confidential", self.confidential.is_some()),
            ("dma", self.dma.is_some()),
            ("ledger", self.ledger.is_some()),
        ];
        set.into_iter().filter_map(|(key, set)| set.then_some(key))
    }

    /// A key set here that says what a saved machine says itself.
    pub(super) fn fixed_by_restore(&self) -> Option<&'static str> {
        let added = [
            ("cmdline", self.cmdline.is_some()),
            ("devices", !self.devices.is_empty()),
            ("files", !self.files.is_empty()),
            ("modules", !self.modules.is_empty()),
        ];
        let added = added.into_iter().filter_map(|(key, set)| set.then_some(key));
        self.replaced().filter(|key| *key != "restore").chain(added).next()
    }
}

/// A whole or fractional number.
#[derive(Debug, Clone, Copy)]
pub struct Number(pub f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Number;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number")
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Number, E> {
                Ok(Number(number as f64))
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Number, E> {
                Ok(Number(number))
            }
        }
        input.deserialize_any(Visitor)
    }
}

fn cmdline<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    let words = String::deserialize(input)?;
    match words.contains('\0') {
        true => Err(de::Error::custom("a command line ends at a NUL")),
        false => Ok(Some(words)),
    }
}

fn memory<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    let size = String::deserialize(input)?;
    match parse_size(&size) {
        Ok(_) => Ok(Some(size)),
        Err(reason) => Err(de::Error::custom(format!("memory: {reason}"))),
    }
}

fn cpus<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u32>, D::Error> {
    let cpus = u32::deserialize(input)?;
    match (1..=CPUS_MAX).contains(&cpus) {
        true => Ok(Some(cpus)),
        false => Err(de::Error::custom(format!("a machine has 1 to {CPUS_MAX} vCPUs, not {cpus}"))),
    }
}

/// A device as `--device` takes it.
#[derive(Deserialize)]
struct Device(#[serde(deserialize_with = "device")] String);

fn device<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    let text = String::deserialize(input)?;
    text.parse::<DeviceSpec>().map_err(de::Error::custom)?;
    Ok(text)
}

fn devices<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    Ok(Vec::<Device>::deserialize(input)?.into_iter().map(|device| device.0).collect())
}

/// A file as `--file` takes it.
#[derive(Deserialize)]
struct GuestFile(#[serde(deserialize_with = "file")] String);

fn file<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    let text = String::deserialize(input)?;
    parse_file(&text).map_err(|reason| de::Error::custom(format!("'{text}': {reason}")))?;
    Ok(text)
}

fn files<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    Ok(Vec::<GuestFile>::deserialize(input)?.into_iter().map(|file| file.0).collect())
}

/// A list of texts that say something.
fn texts<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    Ok(Vec::<Text>::deserialize(input)?.into_iter().map(|text| text.0).collect())
}
