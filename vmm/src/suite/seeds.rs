//! Which seeds a scenario runs with.

use serde::{Deserialize, Deserializer, de};
use std::str::FromStr;

/// Seeds of a scenario beyond which a list is a mistake.
const MOST: u64 = 100_000;

/// A list of seeds, none of them twice: `[1, 5]`, or `"1..1000"` with both ends, or several of these with commas between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seeds(pub Vec<u64>);

impl Default for Seeds {
    fn default() -> Self {
        Self(vec![1])
    }
}

impl Seeds {
    fn new(seeds: Vec<u64>) -> Result<Self, String> {
        let mut sorted = seeds.clone();
        sorted.sort_unstable();
        match sorted.windows(2).find(|pair| pair.first() == pair.last()) {
            Some(pair) => Err(format!("seed {} is listed twice", pair.first().copied().unwrap_or_default())),
            None if seeds.is_empty() => Err("there is no seed in the list".into()),
            None => Ok(Self(seeds)),
        }
    }
}

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| format!("'{text}' is no seed"));
        let mut seeds = Vec::new();
        for part in text.split(',') {
            let (first, last) = match part.split_once("..") {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return Err(format!("'{part}' is an empty range"));
            }
            if (last - first).saturating_add(seeds.len() as u64) >= MOST {
                return Err(format!("more than {MOST} seeds"));
            }
            seeds.extend(first..=last);
        }
        Self::new(seeds)
    }
}

impl<'de> Deserialize<'de> for Seeds {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Seeds;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of seeds, or a range as \"1..1000\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Seeds, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Seeds, A::Error> {
                let mut seeds = Vec::new();
                while let Some(seed) = list.next_element()? {
                    seeds.push(seed);
                }
                Seeds::new(seeds).map_err(de::Error::custom)
            }
        }
        input.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges() {
        let seeds = |text: &str| text.parse::<Seeds>().map(|seeds| seeds.0);
        assert_eq!(seeds("7"), Ok(vec![7]));
        assert_eq!(seeds("1..3,9"), Ok(vec![1, 2, 3, 9]));
        assert_eq!(seeds("1..1000").unwrap().len(), 1000);
        for bad in ["", "x", "3..1", "1..", "1,1", "1..3,2", "0..18446744073709551615", "-1"] {
            assert!(seeds(bad).is_err(), "{bad}");
        }
    }
}
