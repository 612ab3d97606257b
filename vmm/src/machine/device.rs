//! Devices that can be asked for: the value of `--device KIND[,slot=N][,key=value…]`.

mod keys;
mod virtio;

use super::attachment::Attachment;
use devices::dmalab::{self, Dmalab, DmalabConfig, RelaxedOrdering};
use devices::mlx5::{Mlx5, Mlx5Config, NoSnoop, PortType};
use devices::pci::{PciDevice, ROOT_PORTS, Slot};
use keys::Keys;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Understands the keys and values of a device, without touching anything of the host.
type Parse = fn(&[(String, String)]) -> Result<Box<dyn Plan>, DeviceError>;

/// A kind of device: its name, the slot it takes by default, and what it makes of its keys.
struct Kind {
    name: &'static str,
    default_slot: Option<Slot>,
    parse: Parse,
    /// Keys that name a file of the host which must be there.
    reads: &'static [&'static str],
    /// Keys that name a file of the host which is made.
    writes: &'static [&'static str],
}

/// Every kind there is.
const KINDS: &[Kind] = &[
    Kind { name: "mlx5", default_slot: Some(8), parse: mlx5, reads: &[], writes: &[] },
    Kind { name: "dmalab", default_slot: None, parse: dmalab, reads: &[], writes: &[] },
    Kind { name: "blk", default_slot: None, parse: virtio::blk, reads: &["path"], writes: &[] },
    Kind { name: "rng", default_slot: None, parse: virtio::rng, reads: &[], writes: &[] },
    Kind { name: "console", default_slot: None, parse: virtio::console, reads: &["in"], writes: &["out"] },
    Kind { name: "input", default_slot: None, parse: virtio::input, reads: &["events"], writes: &[] },
];

/// A device whose keys have been understood.
trait Plan {
    /// Makes the device, from the machine's `seed` where chance has a part in it, and opens its files.
    ///
    /// # Errors
    /// [`DeviceError`] if a file cannot be used.
    fn build(self: Box<Self>, seed: u64) -> Result<Built, DeviceError>;
}

/// A device, and what it has of the host.
#[derive(Debug)]
pub(super) struct Built {
    pub device: Box<dyn PciDevice>,
    pub attachment: Option<Attachment>,
}

/// Why a device cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    #[error("unknown device '{0}' (known devices: {known})", known = known_kinds())]
    UnknownKind(String),
    #[error("device {kind}: '{text}' is not of the form key=value")]
    NotAKey { kind: String, text: String },
    #[error("device {kind}: '{value}' is not a PCI slot (1 to {ROOT_PORTS})")]
    BadSlot { kind: String, value: String },
    #[error("device {kind}: key '{key}' is given twice")]
    Twice { kind: String, key: String },
    #[error("device {kind} has no key '{key}' (known keys: slot, {known})")]
    UnknownKey { kind: &'static str, key: String, known: String },
    #[error("device {kind}: '{value}' is no value for '{key}' (valid values: {valid})")]
    BadValue { kind: &'static str, key: &'static str, value: String, valid: String },
    #[error("device {kind}: {key}=… is missing: {what}")]
    Missing { kind: &'static str, key: &'static str, what: &'static str },
    #[error("device {kind}: {key}=…: {reason}")]
    Keys { kind: &'static str, key: &'static str, reason: String },
    #[error("device {kind}: {path}: {reason}", path = .path.display())]
    File { kind: &'static str, path: PathBuf, reason: String },
}

fn known_kinds() -> String {
    KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ")
}

/// A device that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSpec {
    pub kind: String,
    /// The slot asked for.
    pub slot: Option<Slot>,
    /// Keys of the device's own.
    pub keys: Vec<(String, String)>,
}

impl DeviceSpec {
    /// The slot asked for, or the one that devices of this kind take.
    #[must_use]
    pub fn fixed_slot(&self) -> Option<Slot> {
        self.slot.or_else(|| find(&self.kind).and_then(|kind| kind.default_slot))
    }

    /// The same device with files that start from `folder` unless they are absolute.
    #[must_use]
    pub fn with_files_in(mut self, folder: &Path) -> Self {
        let names_a_file = |kind: &Kind, key: &str| kind.reads.contains(&key) || kind.writes.contains(&key);
        for (key, value) in &mut self.keys {
            if find(&self.kind).is_some_and(|kind| names_a_file(kind, key)) {
                *value = folder.join(&*value).to_string_lossy().into_owned();
            }
        }
        self
    }

    /// The files of the host that must be there.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let reads = find(&self.kind).map_or(&[][..], |kind| kind.reads);
        let read = self.keys.iter().filter(|(key, _)| reads.contains(&key.as_str()));
        read.map(|(_, value)| Path::new(value))
    }

    fn plan(&self) -> Result<Box<dyn Plan>, DeviceError> {
        let kind = find(&self.kind).ok_or_else(|| DeviceError::UnknownKind(self.kind.clone()))?;
        (kind.parse)(&self.keys)
    }

    /// Makes the device.
    ///
    /// # Errors
    /// [`DeviceError`] if the kind or a key is unknown, or a file cannot be used.
    pub(super) fn build(&self, seed: u64) -> Result<Built, DeviceError> {
        self.plan()?.build(seed)
    }
}

impl fmt::Display for DeviceSpec {
    /// As [`DeviceSpec::from_str`] takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        if let Some(slot) = self.slot {
            write!(f, ",slot={slot}")?;
        }
        self.keys.iter().try_for_each(|(key, value)| write!(f, ",{key}={value}"))
    }
}

fn find(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

impl FromStr for DeviceSpec {
    type Err = DeviceError;

    /// Parses and checks everything, down to the values of the device's own keys.
    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let mut words = text.split(',');
        let kind = words.next().unwrap_or_default().to_owned();
        if find(&kind).is_none() {
            return Err(DeviceError::UnknownKind(kind));
        }
        let mut spec = Self { kind, slot: None, keys: Vec::new() };
        for word in words {
            let kind = || spec.kind.clone();
            let (key, value) = word
                .split_once('=')
                .ok_or_else(|| DeviceError::NotAKey { kind: kind(), text: word.into() })?;
            if spec.keys.iter().any(|(known, _)| known == key) || key == "slot" && spec.slot.is_some() {
                return Err(DeviceError::Twice { kind: kind(), key: key.into() });
            }
            if key == "slot" {
                let slot = value.parse().ok().filter(|slot| (1..=ROOT_PORTS).contains(slot));
                spec.slot =
                    Some(slot.ok_or_else(|| DeviceError::BadSlot { kind: kind(), value: value.into() })?);
            } else {
                spec.keys.push((key.to_owned(), value.to_owned()));
            }
        }
        spec.plan()?;
        Ok(spec)
    }
}

impl Plan for Mlx5Config {
    fn build(self: Box<Self>, _seed: u64) -> Result<Built, DeviceError> {
        Ok(Built { device: Box::new(Mlx5::new(*self)), attachment: None })
    }
}

fn mlx5(pairs: &[(String, String)]) -> Result<Box<dyn Plan>, DeviceError> {
    let keys = Keys::new("mlx5", pairs, &["port", "no-snoop", "umr", "peer"])?;
    let ports = [("ib", PortType::InfiniBand), ("eth", PortType::Ethernet)];
    let no_snoop = [("off", NoSnoop::Off), ("payload", NoSnoop::Payload), ("all", NoSnoop::All)];
    let usual = Mlx5Config::default();
    Ok(Box::new(Mlx5Config {
        port: keys.choice("port", &ports)?.unwrap_or(usual.port),
        no_snoop: keys.choice("no-snoop", &no_snoop)?.unwrap_or(usual.no_snoop),
        umr: keys.flag("umr")?.unwrap_or(usual.umr),
        peer: keys.parsed("peer")?,
    }))
}

impl Plan for DmalabConfig {
    fn build(self: Box<Self>, _seed: u64) -> Result<Built, DeviceError> {
        Ok(Built { device: Box::new(Dmalab::new(*self)), attachment: None })
    }
}

fn dmalab(pairs: &[(String, String)]) -> Result<Box<dyn Plan>, DeviceError> {
    use dmalab::NoSnoop;
    let keys = Keys::new("dmalab", pairs, &["no-snoop", "relaxed-ordering"])?;
    let no_snoop = [
        ("descriptor", NoSnoop::Descriptor),
        ("off", NoSnoop::Off),
        ("payload", NoSnoop::Payload),
        ("all", NoSnoop::All),
    ];
    let relaxed_ordering = [
        ("descriptor", RelaxedOrdering::Descriptor),
        ("off", RelaxedOrdering::Off),
        ("payload", RelaxedOrdering::Payload),
    ];
    let usual = DmalabConfig::default();
    Ok(Box::new(DmalabConfig {
        no_snoop: keys.choice("no-snoop", &no_snoop)?.unwrap_or(usual.no_snoop),
        relaxed_ordering: keys
            .choice("relaxed-ordering", &relaxed_ordering)?
            .unwrap_or(usual.relaxed_ordering),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_and_keys_are_parsed() {
        let spec: DeviceSpec = "mlx5".parse().unwrap();
        assert_eq!((spec.slot, spec.fixed_slot()), (None, Some(8)));
        let spec: DeviceSpec = "mlx5,slot=3,port=eth".parse().unwrap();
        assert_eq!(spec.fixed_slot(), Some(3));
        assert_eq!(spec.keys, [("port".to_owned(), "eth".to_owned())]);
        let spec: DeviceSpec = "blk,path=/nowhere,readonly=on,queues=4".parse().unwrap();
        assert_eq!(spec.fixed_slot(), None);
        let error = spec.build(1).unwrap_err().to_string();
        assert!(error.starts_with("device blk: /nowhere: No such file"), "{error}");
        for text in [
            "mlx5,peer=check@5us*2",
            "dmalab,no-snoop=payload,relaxed-ordering=off",
            "rng,access-platform=off",
            "console",
            "blk,size=1M",
            "input,type=tablet",
            "input,key=A+B@3s",
        ] {
            text.parse::<DeviceSpec>().unwrap().build(1).unwrap();
        }
    }

    #[test]
    fn files_start_from_a_folder_and_a_device_is_written_as_it_is_read() {
        let moved =
            |text: &str| text.parse::<DeviceSpec>().unwrap().with_files_in(Path::new("/dir")).to_string();
        assert_eq!(moved("blk,path=a/b,serial=path,slot=2"), "blk,slot=2,path=/dir/a/b,serial=path");
        assert_eq!(moved("blk,path=/a"), "blk,path=/a");
        assert_eq!(moved("console,out=o,in=i"), "console,out=/dir/o,in=/dir/i");
        assert_eq!(moved("input,events=e"), "input,events=/dir/e");
        assert_eq!(moved("mlx5,port=ib"), "mlx5,port=ib");
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let error = |text: &str| text.parse::<DeviceSpec>().unwrap_err().to_string();
        assert_eq!(
            error("e1000"),
            "unknown device 'e1000' (known devices: mlx5, dmalab, blk, rng, console, input)"
        );
        assert_eq!(error("mlx5,slot"), "device mlx5: 'slot' is not of the form key=value");
        assert_eq!(error("mlx5,slot=9"), "device mlx5: '9' is not a PCI slot (1 to 8)");
        assert_eq!(error("mlx5,port=ib,port=ib"), "device mlx5: key 'port' is given twice");
        assert_eq!(
            error("mlx5,speed=1"),
            "device mlx5 has no key 'speed' (known keys: slot, port, no-snoop, umr, peer)"
        );
        assert_eq!(error("mlx5,port=fc"), "device mlx5: 'fc' is no value for 'port' (valid values: ib, eth)");
        assert_eq!(
            error("dmalab,no-snoop=on"),
            "device dmalab: 'on' is no value for 'no-snoop' (valid values: descriptor, off, payload, all)"
        );
        assert!(error("mlx5,peer=write").contains("as write@10ms*3"));
        assert!(error("blk").starts_with("device blk: path=… is missing: the raw disk image (or size=64M"));
        assert_eq!(error("blk,path=x,size=1M"), "device blk: size=…: the image of path=… has its own size");
        assert!(error("blk,size=1M,readonly=on").contains("nothing could come of it"));
        assert!(error("blk,size=0M").contains("valid values: a size above zero, as 64M"));
        assert!(error("blk,path=x,queues=9").contains("valid values: 1 to 8"));
        assert!(error("blk,path=x,readonly=yes").contains("valid values: on, off"));
        assert!(error("rng,path=x").contains("known keys: slot, access-platform"));
        assert!(error("input,type=mouse").contains("valid values: keyboard, tablet"));
        assert!(error("input,key=ANY").contains("no key has the name 'ANY'"));
        assert!(error("input,key=A,events=x").contains("'events' is given as well"));
        assert!(error("").contains("unknown device ''"));
    }
}
