//! Texts of a scenario that say something.

use serde::{Deserialize, Deserializer, de};

/// A text that is not empty.
///
/// In a list, an error is that of the entry: deserializers of TOML know where a newtype is, not where a string is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Text(#[serde(deserialize_with = "text")] pub String);

pub(super) fn text<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    let text = String::deserialize(input)?;
    if text.trim().is_empty() {
        return Err(de::Error::custom("must not be empty"));
    }
    Ok(text)
}
