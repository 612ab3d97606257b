//! Saved states: the contract of what can be saved, and the one codec that everything of a machine goes through.
//!
//! The codec is postcard: a fixed, documented wire format for serde's data model that is compact, allocates no more than
//! it has read, and is kept up (bincode is given up by its authors, and CBOR would repeat every field's name in thousands of
//! objects). It does not describe itself: whoever keeps a state for longer keeps the version of its layout with it.
//!
//! What is derived from other state (decoded ranges, translations, host addresses) is not saved but made again, and what the
//! description of a machine decides is checked, not taken over: a state is put into a device built from the description.

pub mod layout;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A state cannot be saved or restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// What was read is no state of this layout.
    #[error("{what}: {reason}")]
    Malformed { what: String, reason: String },
    /// The state is another machine's, or one that no machine can be in.
    #[error("{what}: {reason}")]
    Unfit { what: String, reason: &'static str },
    /// There is more than the machine has a place for.
    #[error("{0} bytes are left over")]
    LeftOver(usize),
}

impl StateError {
    /// [`StateError::Unfit`].
    #[must_use]
    pub fn unfit(what: impl Into<String>, reason: &'static str) -> Self {
        Self::Unfit { what: what.into(), reason }
    }

    /// [`StateError::Malformed`], of a `T`.
    fn malformed<T>(error: postcard::Error) -> Self {
        Self::Malformed { what: name_of::<T>().to_owned(), reason: error.to_string() }
    }

    /// The same of what users know as `name`.
    #[must_use]
    pub fn of(self, name: impl Into<String>) -> Self {
        match self {
            Self::Malformed { reason, .. } => Self::Malformed { what: name.into(), reason },
            Self::Unfit { reason, .. } => Self::Unfit { what: name.into(), reason },
            Self::LeftOver(_) => self,
        }
    }
}

/// The short name of a type, for errors.
fn name_of<T>() -> &'static str {
    let name = std::any::type_name::<T>();
    let generic = name.find('<').unwrap_or(name.len());
    let (path, _) = name.split_at(generic);
    path.rsplit("::").next().unwrap_or(path)
}

/// Takes states, one after the other.
#[derive(Debug, Default)]
pub struct Saver {
    bytes: Vec<u8>,
    describes: bool,
}

impl Saver {
    /// One that takes the layouts of states, as text, instead of what is in them.
    #[must_use]
    pub fn describing() -> Self {
        Self { bytes: Vec::new(), describes: true }
    }

    /// Adds `value`.
    ///
    /// # Errors
    /// [`StateError::Malformed`] for a value that the codec has no form for.
    pub fn put<T: Serialize + DeserializeOwned>(&mut self, value: &T) -> Result<(), StateError> {
        if self.describes {
            self.bytes.extend_from_slice(layout::of::<T>().as_bytes());
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.bytes);
        self.bytes = postcard::to_extend(value, bytes).map_err(StateError::malformed::<T>)?;
        Ok(())
    }

    /// What has been added.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Gives states back in the order in which they were saved. What it reads is not to be trusted.
#[derive(Debug)]
pub struct Loader<'a>(&'a [u8]);

impl<'a> Loader<'a> {
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Takes the next value.
    ///
    /// # Errors
    /// [`StateError::Malformed`] if there is none of this type.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<T, StateError> {
        let (value, rest) = postcard::take_from_bytes(self.0).map_err(StateError::malformed::<T>)?;
        self.0 = rest;
        Ok(value)
    }

    /// Makes sure that nothing is left.
    ///
    /// # Errors
    /// [`StateError::LeftOver`].
    pub fn finish(self) -> Result<(), StateError> {
        if self.0.is_empty() { Ok(()) } else { Err(StateError::LeftOver(self.0.len())) }
    }
}

/// Something whose state is all of it: plain data.
pub trait State: Serialize + DeserializeOwned {
    /// Whether `saved`, which may have come from anywhere, can be the state of this one, which has just been built from its
    /// description: what the description decides is the same, and so is the length of whatever is found by an index.
    ///
    /// # Errors
    /// What is different.
    fn accepts(&self, _saved: &Self) -> Result<(), &'static str> {
        Ok(())
    }
}

/// For [`State::accepts`]: what the description decides is the `same`.
pub(crate) fn same(same: bool) -> Result<(), &'static str> {
    if same { Ok(()) } else { Err("it was saved of another device") }
}

/// For [`State::accepts`]: an index, a length or a divisor is `in_range`.
pub(crate) fn in_range(in_range: bool) -> Result<(), &'static str> {
    if in_range { Ok(()) } else { Err("a device cannot be in this state") }
}

/// Saving and restoring, also behind a trait object.
pub trait SaveState {
    /// Adds the present state to `to`. The same state gives the same bytes.
    ///
    /// # Errors
    /// [`StateError::Malformed`].
    fn save(&self, to: &mut Saver) -> Result<(), StateError>;
    /// Goes over to the state that [`SaveState::save`] has saved of something built from the same description. Must be called
    /// before anything else has been done with this one; after an error it is good for nothing.
    ///
    /// # Errors
    /// [`StateError`] if there is no such state, or it does not fit.
    fn restore(&mut self, from: &mut Loader<'_>) -> Result<(), StateError>;
}

impl<T: State> SaveState for T {
    fn save(&self, to: &mut Saver) -> Result<(), StateError> {
        to.put(self)
    }
    fn restore(&mut self, from: &mut Loader<'_>) -> Result<(), StateError> {
        let saved = from.take::<T>()?;
        self.accepts(&saved).map_err(|reason| StateError::unfit(name_of::<T>(), reason))?;
        *self = saved;
        Ok(())
    }
}

/// Arrays of bytes of any length: serde knows those up to 32. For `#[serde(with)]`.
pub(crate) mod bytes {
    use serde::de::{Error, SeqAccess, Visitor};
    use serde::ser::SerializeTuple;
    use serde::{Deserializer, Serializer};
    use std::fmt;

    pub fn serialize<S: Serializer, const N: usize>(bytes: &[u8; N], to: S) -> Result<S::Ok, S::Error> {
        let mut to = to.serialize_tuple(N)?;
        bytes.iter().try_for_each(|byte| to.serialize_element(byte))?;
        to.end()
    }

    pub fn deserialize<'de, D: Deserializer<'de>, const N: usize>(from: D) -> Result<[u8; N], D::Error> {
        struct Array<const N: usize>;
        impl<'de, const N: usize> Visitor<'de> for Array<N> {
            type Value = [u8; N];
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{N} bytes")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<Self::Value, A::Error> {
                let mut array = [0; N];
                for (at, byte) in array.iter_mut().enumerate() {
                    *byte = bytes.next_element()?.ok_or_else(|| A::Error::invalid_length(at, &self))?;
                }
                Ok(array)
            }
        }
        from.deserialize_tuple(N, Array)
    }
}
