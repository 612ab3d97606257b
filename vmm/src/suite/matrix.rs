//! Axes multiplied into cells.

use super::keys::Keys;
use super::scenario::Condition;
use serde::{Deserialize, Deserializer, de};
use std::collections::BTreeMap;
use std::ops::Range;
use toml::Spanned;

/// Cells of a scenario beyond which a matrix is a mistake.
const MOST: usize = 10_000;

/// A place in the file, and what is wrong there.
type Wrong = (Range<usize>, String);

/// The values of an axis as the file has them.
#[derive(Debug, Clone)]
pub(super) enum Axis {
    /// Values of the guest's key that the axis is named after.
    Values(Vec<toml::Value>),
    /// Names, and what each sets.
    Variants(BTreeMap<String, Keys>),
}

impl<'de> Deserialize<'de> for Axis {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Axis;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of values, or named variants")
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Axis, A::Error> {
                Deserialize::deserialize(de::value::SeqAccessDeserializer::new(list)).map(Axis::Values)
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Axis, A::Error> {
                Deserialize::deserialize(de::value::MapAccessDeserializer::new(map)).map(Axis::Variants)
            }
        }
        input.deserialize_any(Visitor)
    }
}

/// A point of the matrix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    /// `AXIS=VALUE,…`; empty without a matrix.
    pub name: String,
    /// The values of the axes.
    pub at: BTreeMap<String, String>,
    pub guest: Keys,
}

impl Cell {
    pub(super) fn is_in(&self, condition: Option<&Spanned<Condition>>) -> bool {
        condition.is_none_or(|condition| holds(condition.get_ref(), &self.at))
    }
}

fn holds(condition: &Condition, at: &BTreeMap<String, String>) -> bool {
    condition.iter().all(|(axis, choice)| at.get(axis).is_some_and(|value| choice.values().contains(value)))
}

/// What names of scenarios, axes and values are like: they are names of folders as well.
pub(super) const NAMES: &str = "names have letters, digits, and any of -_+. (this not first)";

pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && plain(text) == text
}

/// `text` with everything replaced that a name does not have.
pub(super) fn plain(text: &str) -> String {
    let is_plain = |at: usize, character: char| {
        character.is_ascii_alphanumeric() || "-_+".contains(character) || (character == '.' && at > 0)
    };
    text.chars()
        .enumerate()
        .map(|(at, character)| if is_plain(at, character) { character } else { '_' })
        .collect()
}

/// The axes by name, each with its values by name in order.
pub(super) type Axes = BTreeMap<String, Vec<(String, Keys)>>;

/// The variants of every axis.
///
/// # Errors
/// Where an axis is not one.
pub(super) fn axes(matrix: &BTreeMap<String, Spanned<Axis>>) -> Result<Axes, Wrong> {
    let mut axes = Axes::new();
    for (name, axis) in matrix {
        let wrong = |reason: String| (axis.span(), format!("axis '{name}' {reason}"));
        let variants = match axis.get_ref() {
            Axis::Variants(variants) => variants.clone().into_iter().collect(),
            Axis::Values(values) => values
                .iter()
                .map(|value| variant(name, value).map_err(&wrong))
                .collect::<Result<Vec<_>, _>>()?,
        };
        if variants.is_empty() {
            return Err(wrong("has no values".into()));
        }
        let mut names = std::iter::once(name).chain(variants.iter().map(|(value, _)| value));
        if let Some(odd) = names.find(|odd| !is_name(odd)) {
            return Err(wrong(format!(
                "has the name '{odd}': {NAMES}; values can be given names: NAME = {{ … }}"
            )));
        }
        for (at, (value, _)) in variants.iter().enumerate() {
            if variants.iter().skip(at + 1).any(|(other, _)| other == value) {
                return Err(wrong(format!("has the value '{value}' twice")));
            }
        }
        axes.insert(name.clone(), variants);
    }
    Ok(axes)
}

/// A value of the guest's key `name`, named by itself.
fn variant(name: &str, value: &toml::Value) -> Result<(String, Keys), String> {
    let table: toml::Table = [(name.to_owned(), value.clone())].into_iter().collect();
    let keys =
        table.try_into::<Keys>().map_err(|error| format!("sets no guest: {}", error.message().trim_end()))?;
    let value = match value {
        toml::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Ok((value, keys))
}

/// Whether `condition` names axes and values that there are.
///
/// # Errors
/// What there is not.
pub(super) fn check_condition(axes: &Axes, condition: &Condition) -> Result<(), String> {
    let list = |names: Vec<&str>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    for (axis, choice) in condition {
        let Some(values) = axes.get(axis) else {
            let known = list(axes.keys().map(String::as_str).collect());
            return Err(format!("no axis is called '{axis}' (axes: {known})"));
        };
        if choice.values().is_empty() {
            return Err(format!("axis '{axis}': none of its values is named"));
        }
        let is_known = |value: &&String| values.iter().any(|(name, _)| name == *value);
        if let Some(value) = choice.values().iter().find(|value| !is_known(value)) {
            let known = list(values.iter().map(|(name, _)| name.as_str()).collect());
            return Err(format!("axis '{axis}' has no value '{value}' (values: {known})"));
        }
    }
    Ok(())
}

/// All cells, in the order of the axes' names, the last axis fastest.
///
/// # Errors
/// If there are none or too many, or two axes set the same key.
pub(super) fn cells(
    guest: &Keys,
    matrix: &BTreeMap<String, Spanned<Axis>>,
    exclude: &[Spanned<Condition>],
) -> Result<Vec<Cell>, (Option<Range<usize>>, String)> {
    let axes = axes(matrix).map_err(|(span, reason)| (Some(span), reason))?;
    let count = axes.values().try_fold(1_usize, |count, values| count.checked_mul(values.len()));
    if count.is_none_or(|count| count > MOST) {
        return Err((None, format!("the matrix has more than {MOST} cells")));
    }
    contradiction(&axes).map_err(|reason| (None, reason))?;
    let mut cells = vec![Cell { guest: guest.clone(), ..Cell::default() }];
    for (axis, values) in &axes {
        let step = |cell: Cell| {
            values.iter().map(move |(value, keys)| {
                let mut cell = cell.clone();
                let comma = if cell.name.is_empty() { "" } else { "," };
                cell.name = format!("{}{comma}{axis}={value}", cell.name);
                cell.at.insert(axis.clone(), value.clone());
                cell.guest.add(keys);
                cell
            })
        };
        cells = cells.into_iter().flat_map(step).collect();
    }
    cells.retain(|cell| !exclude.iter().any(|condition| holds(condition.get_ref(), &cell.at)));
    if cells.is_empty() {
        return Err((exclude.first().map(Spanned::span), "every cell of the matrix is excluded".into()));
    }
    Ok(cells)
}

/// Two axes that set the same key would hide each other's values.
fn contradiction(axes: &Axes) -> Result<(), String> {
    let mut set_by: BTreeMap<&str, &str> = BTreeMap::new();
    for (axis, values) in axes {
        let keys: std::collections::BTreeSet<&str> =
            values.iter().flat_map(|(_, keys)| keys.replaced()).collect();
        for key in keys {
            if let Some(other) = set_by.insert(key, axis) {
                return Err(format!("axes '{other}' and '{axis}' both set '{key}'"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct File {
        matrix: BTreeMap<String, Spanned<Axis>>,
        #[serde(default)]
        exclude: Vec<Spanned<Condition>>,
    }

    fn expand(text: &str) -> Result<Vec<Cell>, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        let guest = Keys { cmdline: Some("a".into()), ..Keys::default() };
        cells(&guest, &file.matrix, &file.exclude).map_err(|(_, reason)| reason)
    }

    #[test]
    fn axes_multiply_and_their_keys_add_up() {
        let cells = expand(
            "[matrix]\ncpus = [1, 2]\ndma = { bounced = { cmdline = 'swiotlb=force' }, coherent = {} }\n\
             [[exclude]]\ncpus = '2'\ndma = 'coherent'",
        )
        .unwrap();
        let names: Vec<_> = cells.iter().map(|cell| &*cell.name).collect();
        assert_eq!(names, ["cpus=1,dma=bounced", "cpus=1,dma=coherent", "cpus=2,dma=bounced"]);
        assert_eq!(cells[2].guest.cpus, Some(2));
        assert_eq!(cells[2].guest.cmdline.as_deref(), Some("a swiotlb=force"));
        assert_eq!(cells[1].guest.cmdline.as_deref(), Some("a"));
    }

    #[test]
    fn impossible_matrices_are_refused() {
        for (text, reason) in [
            ("[matrix]\ncpus = [1]\nx = { y = { cpus = 2 } }", "axes 'cpus' and 'x' both set 'cpus'"),
            ("[matrix]\ncpus = [1, 1]", "twice"),
            ("[matrix]\ncpus = [1]\n[[exclude]]\ncpus = '1'", "every cell of the matrix is excluded"),
            ("[matrix]\nkernel = ['a/b']", "'a/b': names have"),
            ("[matrix]\ncpus = ['x']", "axis 'cpus' sets no guest: invalid type"),
            ("[matrix]\ncpus = 3", "a list of values, or named variants"),
        ] {
            let error = expand(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let many = (1..=14).map(|axis| format!("a{axis} = {{ x = {{}}, y = {{}} }}\n")).collect::<String>();
        assert!(expand(&format!("[matrix]\n{many}")).unwrap_err().contains("more than 10000 cells"));
    }
}
