//! Axes multiplied into cells.

use super::keys::Keys;
use super::scenario::Condition;
use super::source::Wrong;
use serde::{Deserialize, Deserializer, de};
use std::collections::{BTreeMap, BTreeSet};
use toml::Spanned;

/// Cells of a scenario beyond which a matrix is a mistake.
const MOST: usize = 10_000;

/// The values of an axis as the file has them.
#[derive(Debug, Clone)]
pub(super) enum Axis {
    /// Values of the guest's key that the axis is named after.
    Values(Vec<Spanned<toml::Value>>),
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

/// A way out for values that are no names.
const NAMED: &str = "values can be given names: NAME = { … }";

/// The variants of every axis.
///
/// # Errors
/// Where an axis is not one.
pub(super) fn axes(matrix: &BTreeMap<String, Spanned<Axis>>) -> Result<Axes, Wrong> {
    let mut axes = Axes::new();
    for (name, axis) in matrix {
        let wrong = |reason: String| Wrong::at(axis.span(), format!("axis '{name}' {reason}"));
        let variants = match axis.get_ref() {
            Axis::Variants(variants) => variants.clone().into_iter().collect(),
            Axis::Values(values) => named_by_themselves(name, values)?,
        };
        if variants.is_empty() {
            return Err(wrong("has no values".into()));
        }
        let mut names = std::iter::once(name).chain(variants.iter().map(|(value, _)| value));
        if let Some(odd) = names.find(|odd| !is_name(odd)) {
            return Err(wrong(format!("has the name '{odd}': {NAMES}")));
        }
        axes.insert(name.clone(), variants);
    }
    Ok(axes)
}

/// The variants of the axis `name` that has `values` of the guest's key of that name.
fn named_by_themselves(name: &str, values: &[Spanned<toml::Value>]) -> Result<Vec<(String, Keys)>, Wrong> {
    let mut names = BTreeSet::new();
    let mut variants = Vec::new();
    for value in values {
        let wrong = |reason: String| Wrong::at(value.span(), format!("axis '{name}' {reason}"));
        let (text, keys) = variant(name, value.get_ref()).map_err(wrong)?;
        if !is_name(&text) {
            return Err(wrong(format!("has the value '{text}': {NAMES}; {NAMED}")));
        }
        if !names.insert(text.clone()) {
            return Err(wrong(format!("has the value '{text}' twice")));
        }
        variants.push((text, keys));
    }
    Ok(variants)
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
) -> Result<Vec<Cell>, Wrong> {
    let axes = axes(matrix)?;
    let count = axes.values().try_fold(1_usize, |count, values| count.checked_mul(values.len()));
    if count.is_none_or(|count| count > MOST) {
        let sizes = axes.values().map(|values| values.len().to_string()).collect::<Vec<_>>().join(" × ");
        let count = count.map_or_else(String::new, |count| format!(" = {count}"));
        let reason = format!("the matrix has {sizes}{count} cells, more than {MOST}");
        return Err(Wrong { span: matrix.values().map(Spanned::span).min_by_key(|span| span.start), reason });
    }
    contradiction(matrix, &axes)?;
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
        let span = exclude.first().map(Spanned::span);
        return Err(Wrong { span, reason: "every cell of the matrix is excluded".into() });
    }
    Ok(cells)
}

/// Two axes that set the same key would hide each other's values.
fn contradiction(matrix: &BTreeMap<String, Spanned<Axis>>, axes: &Axes) -> Result<(), Wrong> {
    let mut set_by: BTreeMap<&str, &str> = BTreeMap::new();
    for (axis, values) in axes {
        let keys: BTreeSet<&str> = values.iter().flat_map(|(_, keys)| keys.replaced()).collect();
        for key in keys {
            if let Some(other) = set_by.insert(key, axis) {
                let span = matrix.get(axis).map(Spanned::span);
                return Err(Wrong { span, reason: format!("axes '{other}' and '{axis}' both set '{key}'") });
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
        cells(&guest, &file.matrix, &file.exclude).map_err(|wrong| wrong.reason)
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
        assert!(expand(&format!("[matrix]\n{many}")).unwrap_err().contains("= 16384 cells, more than 10000"));
    }
}
