//! What is looked for in texts.

use regex::Regex;
use serde::{Deserialize, Deserializer, de};
use std::fmt;

/// A text to be found as it is, or a regular expression (`{ regex = "…" }`), in which `^` and `$` are a line's ends.
#[derive(Debug, Clone)]
pub enum Pattern {
    Text(String),
    Regex(Regex),
}

impl Pattern {
    /// Whether `text` has it.
    #[must_use]
    pub fn is_in(&self, text: &str) -> bool {
        match self {
            Self::Text(part) => text.contains(part.as_str()),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Regex(regex) => write!(f, "/{regex}/"),
        }
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Expression {
            regex: String,
        }
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Pattern;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or { regex = \"…\" }")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Pattern, E> {
                match text {
                    "" => Err(E::custom("an empty text is everywhere")),
                    text => Ok(Pattern::Text(text.to_owned())),
                }
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Pattern, A::Error> {
                let expression = Expression::deserialize(de::value::MapAccessDeserializer::new(map))?;
                // Lines of a console end by CR and LF.
                let regex = Regex::new(&format!("(?mR){}", expression.regex));
                regex.map(Pattern::Regex).map_err(de::Error::custom)
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
        let patterns: Patterns = toml::from_str("all = ['a.c', { regex = '^a.c$' }]").unwrap();
        let found = |text: &str| patterns.all.iter().map(|pattern| pattern.is_in(text)).collect::<Vec<_>>();
        assert_eq!(found("a.c"), [true, true]);
        assert_eq!(found("x\r\nabc\r\ny"), [false, true]);
        assert_eq!(found("xa.cx"), [true, false]);
        for bad in ["all = ['']", "all = [{ regex = '(' }]", "all = [{ regexp = 'a' }]", "all = [1]"] {
            assert!(toml::from_str::<Patterns>(bad).is_err(), "{bad}");
        }
    }
}
