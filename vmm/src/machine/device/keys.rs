//! The keys and values of a `--device` argument, taken one by one.

use super::DeviceError;
use crate::quantity::parse_size;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Keys of one device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keys<'a> {
    kind: &'static str,
    pairs: &'a [(String, String)],
}

impl<'a> Keys<'a> {
    /// The keys of a device of `kind`, which has no others than `known`.
    ///
    /// # Errors
    /// [`DeviceError::UnknownKey`] with the first other one.
    pub(super) fn new(
        kind: &'static str,
        pairs: &'a [(String, String)],
        known: &[&str],
    ) -> Result<Self, DeviceError> {
        match pairs.iter().find(|(key, _)| !known.contains(&key.as_str())) {
            None => Ok(Self { kind, pairs }),
            Some((key, _)) => {
                Err(DeviceError::UnknownKey { kind, key: key.clone(), known: known.join(", ") })
            }
        }
    }

    /// The value of `key`, if it is given.
    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.pairs.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    fn bad<T>(&self, key: &'static str, value: &str, valid: String) -> Result<T, DeviceError> {
        Err(DeviceError::BadValue { kind: self.kind, key, value: value.to_owned(), valid })
    }

    /// What the value of `key` stands for among `values`.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &'static str,
        values: &[(&str, T)],
    ) -> Result<Option<T>, DeviceError> {
        let Some(value) = self.text(key) else { return Ok(None) };
        match values.iter().find(|(name, _)| *name == value) {
            Some((_, found)) => Ok(Some(*found)),
            None => {
                let names: Vec<_> = values.iter().map(|(name, _)| *name).collect();
                self.bad(key, value, names.join(", "))
            }
        }
    }

    /// `on` or `off`.
    pub(super) fn flag(&self, key: &'static str) -> Result<Option<bool>, DeviceError> {
        self.choice(key, &[("on", true), ("off", false)])
    }

    /// The value of `key` as its type reads it; the type's error says what is valid.
    pub(super) fn parsed<T: FromStr<Err: Display>>(
        &self,
        key: &'static str,
    ) -> Result<Option<T>, DeviceError> {
        let Some(value) = self.text(key) else { return Ok(None) };
        value.parse().map(Some).or_else(|error: T::Err| self.bad(key, value, error.to_string()))
    }

    /// A size in bytes, with its unit.
    pub(super) fn size(&self, key: &'static str) -> Result<Option<u64>, DeviceError> {
        let Some(value) = self.text(key) else { return Ok(None) };
        match parse_size(value) {
            Ok(0) | Err(_) => self.bad(key, value, "a size above zero, as 64M".into()),
            Ok(size) => Ok(Some(size)),
        }
    }

    /// A number in `range`.
    pub(super) fn number(
        &self,
        key: &'static str,
        range: RangeInclusive<u16>,
    ) -> Result<Option<u16>, DeviceError> {
        let Some(value) = self.text(key) else { return Ok(None) };
        match value.parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => self.bad(key, value, format!("{} to {}", range.start(), range.end())),
        }
    }
}
