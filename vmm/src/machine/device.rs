//! Devices that can be asked for: the value of `--device KIND[,slot=N][,key=value…]`.

use devices::mlx5::{ConfigError, Mlx5, Mlx5Config};
use devices::pci::{PciDevice, ROOT_PORTS, Slot};
use std::str::FromStr;

/// Makes a device from its keys and values.
type Build = fn(&[(String, String)]) -> Result<Box<dyn PciDevice>, DeviceError>;

/// A kind of device: its name, the slot it takes by default, and its constructor.
struct Kind {
    name: &'static str,
    default_slot: Option<Slot>,
    build: Build,
}

/// Every kind there is.
const KINDS: &[Kind] = &[Kind { name: "mlx5", default_slot: Some(8), build: build_mlx5 }];

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
    #[error(transparent)]
    Config(#[from] ConfigError),
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

    /// Makes the device.
    ///
    /// # Errors
    /// [`DeviceError`] if the kind or a key is unknown.
    pub fn build(&self) -> Result<Box<dyn PciDevice>, DeviceError> {
        let kind = find(&self.kind).ok_or_else(|| DeviceError::UnknownKind(self.kind.clone()))?;
        (kind.build)(&self.keys)
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
        spec.build()?;
        Ok(spec)
    }
}

fn build_mlx5(keys: &[(String, String)]) -> Result<Box<dyn PciDevice>, DeviceError> {
    let mut config = Mlx5Config::default();
    for (key, value) in keys {
        config.parse_key(key, value)?;
    }
    Ok(Box::new(Mlx5::new(config)))
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
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let error = |text: &str| text.parse::<DeviceSpec>().unwrap_err().to_string();
        assert_eq!(error("e1000"), "unknown device 'e1000' (known devices: mlx5)");
        assert_eq!(error("mlx5,slot"), "device mlx5: 'slot' is not of the form key=value");
        assert_eq!(error("mlx5,slot=9"), "device mlx5: '9' is not a PCI slot (1 to 8)");
        assert_eq!(error("mlx5,port=ib,port=ib"), "device mlx5: key 'port' is given twice");
        assert!(error("mlx5,speed=1").contains("no key 'speed'"));
        assert!(error("mlx5,port=fc").contains("valid values"));
        assert!(error("").contains("unknown device ''"));
    }
}
