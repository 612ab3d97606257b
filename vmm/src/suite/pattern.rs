//! What is looked for in texts.

use regex::Regex;
use serde::{Deserialize, Deserializer, de};
use std::fmt;

/// What is looked for: a text to be found as it is, a regular expression (`{ regex = "…" }`) in which `^` and `$` are a line's
/// ends, or everything that there is (`{ whole = "…" }`).
#[derive(Debug, Clone)]
pub enum Pattern {
    Text(String),
    /// With how often it is to be found, if that matters.
    Regex(Regex, Option<usize>),
    /// Apart from white space at both ends.
    Whole(String),
}

impl Pattern {
    /// Whether `text` has it.
    #[must_use]
    pub fn is_in(&self, text: &str) -> bool {
        match self {
            Self::Text(part) => text.contains(part.as_str()),
            Self::Regex(regex, None) => regex.is_match(text),
            Self::Regex(regex, Some(count)) => regex.find_iter(text).count() == *count,
            Self::Whole(whole) => text.trim() == whole.trim(),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            // Without the flags that every expression has.
            Self::Regex(regex, count) => {
                write!(f, "/{}/", regex.as_str().strip_prefix(FLAGS).unwrap_or(regex.as_str()))?;
                count.map_or(Ok(()), |count| write!(f, " {count} times"))
            }
            Self::Whole(whole) => write!(f, "only {:?}", whole.trim()),
        }
    }
}

/// `^` and `$` are a line's ends; lines of a console end by CR and LF.
const FLAGS: &str = "(?mR)";

/// A regular expression in which `^` and `$` are a line's ends.
///
/// # Errors
/// What is wrong with it.
pub(super) fn regex(text: &str) -> Result<Regex, regex::Error> {
    Regex::new(&format!("{FLAGS}{text}"))
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            regex: Option<String>,
            count: Option<usize>,
            whole: Option<String>,
        }
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Pattern;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, { regex = \"…\" }, { regex = \"…\", count = N } or { whole = \"…\" }")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Pattern, E> {
                match text {
                    "" => Err(E::custom("an empty text is everywhere")),
                    text => Ok(Pattern::Text(text.to_owned())),
                }
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Pattern, A::Error> {
                match Table::deserialize(de::value::MapAccessDeserializer::new(map))? {
                    Table { regex: Some(regex), count, whole: None } => {
                        let regex = self::regex(&regex).map_err(de::Error::custom)?;
                        Ok(Pattern::Regex(regex, count))
                    }
                    Table { regex: None, count: None, whole: Some(whole) } => Ok(Pattern::Whole(whole)),
                    _ => Err(de::Error::custom("give a regex, which may have a count, or whole")),
                }
            }
        }
        input.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Patterns {
        all: Vec<Pattern>,
    }

    #[test]
    fn texts_are_literal_and_expressions_are_not() {
        let patterns: Patterns =
            toml::from_str(r"all = ['a.c', { regex = '^a.c$' }, { regex = '(?i)^\d\sÄ' }]").unwrap();
        let found = |text: &str| patterns.all.iter().map(|pattern| pattern.is_in(text)).collect::<Vec<_>>();
        assert_eq!(found("a.c"), [true, true, false]);
        assert_eq!(found("x\r\nabc\r\ny"), [false, true, false]);
        assert_eq!(found("xa.cx"), [true, false, false]);
        assert_eq!(found("1 ä"), [false, false, true]);
        assert_eq!(patterns.all[1].to_string(), "/^a.c$/");
        for bad in [
            "all = ['']",
            "all = [{ regex = '(' }]",
            "all = [{ regexp = 'a' }]",
            "all = [1]",
            "all = [{ whole = 'a', count = 1 }]",
            "all = [{ regex = 'a', whole = 'a' }]",
            "all = [{}]",
        ] {
            assert!(toml::from_str::<Patterns>(bad).is_err(), "{bad}");
        }
    }
    #[test]
    fn occurrences_are_counted_and_a_whole_is_all_there_is() {
        let patterns: Patterns =
            toml::from_str("all = [{ regex = '^a', count = 2 }, { whole = \"\\na b\\nc\\n\" }]").unwrap();
        let found = |text: &str| patterns.all.iter().map(|pattern| pattern.is_in(text)).collect::<Vec<_>>();
        assert_eq!(found("a b\nc"), [false, true]);
        assert_eq!(found("a b\na\nba\n"), [true, false]);
        assert_eq!(found("a\na\na b\nc"), [false, false]);
        assert_eq!(patterns.all[0].to_string(), "/^a/ 2 times");
    }
}
