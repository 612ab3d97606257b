//! Which cache a machine is to have: the value of `--cache off|PRESET|KEY=VALUE[,…]`.

use super::cache::{CacheConfig, Scope};
use crate::quantity::parse_size;
use cache_model::{Config, ConfigError, Geometry, GeometryError, Policy, Schedule, WriteBack, WritePolicy};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Names for whole specifications.
pub const PRESETS: &[(&str, &str)] = &[
    ("l1", "size=32K,ways=8,line=64,policy=lru"),
    ("l2", "size=32K,ways=8,line=64,policy=plru,l2=1M,l2-ways=16"),
    ("tiny", "size=1K,ways=2,line=64,policy=lru"),
    ("short-lines", "size=16K,ways=4,line=32,policy=random"),
    ("long-lines", "size=32K,ways=4,line=128,policy=plru"),
    ("through", "size=32K,ways=8,line=64,policy=lru,write=through"),
    ("dma", "size=32K,ways=8,line=64,policy=lru,scope=dma"),
    ("random", "size=32K,ways=8,line=64,policy=lru,schedule=random"),
    ("worst", "size=32K,ways=8,line=64,policy=lru,schedule=worst"),
];

const KEYS: &str = "size, sets, ways, line, policy, write, alloc, writeback, l2, l2-ways, l2-policy, schedule, scope, pages, seed";

/// Why there cannot be such a cache.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CacheSpecError {
    #[error("'{0}' is neither a preset ({presets}) nor of the form key=value", presets = preset_names())]
    NotAKey(String),
    #[error("there is no key '{0}' (known keys: {KEYS})")]
    UnknownKey(String),
    #[error("'{0}' is given twice")]
    Twice(String),
    #[error("{key}={value}: {reason}")]
    BadValue { key: String, value: String, reason: String },
    #[error("size= and sets= say the same thing: give one of them")]
    SizeAndSets,
    #[error("{key}={size} is not a whole number of sets: a set is {set} bytes (ways × line)")]
    Size { key: &'static str, size: u64, set: u64 },
    #[error("l2-ways and l2-policy need l2=SIZE")]
    NoSecondLevel,
    #[error("pages=FILE needs scope=dma: with scope=all every page is shown")]
    PagesOfAll,
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    #[error(transparent)]
    Config(#[from] ConfigError),
}

fn preset_names() -> String {
    PRESETS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// A cache that is asked for, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSpec {
    text: String,
    config: Option<CacheConfig>,
    pages: Option<PathBuf>,
}

impl CacheSpec {
    /// No cache.
    #[must_use]
    pub fn off() -> Self {
        Self { text: "off".into(), config: None, pages: None }
    }

    /// What it comes to; `None`: no cache.
    #[must_use]
    pub fn config(&self) -> Option<&CacheConfig> {
        self.config.as_ref()
    }

    /// The file with the pages that are shown from power-on ([`super::page_list`]); a run writes it if it is not there.
    #[must_use]
    pub fn pages(&self) -> Option<&Path> {
        self.pages.as_deref()
    }

    /// Whether there is to be none.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.config.is_none()
    }
}

impl fmt::Display for CacheSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for CacheSpec {
    type Err = CacheSpecError;

    fn from_str(text: &str) -> Result<Self, CacheSpecError> {
        if text == "off" {
            return Ok(Self::off());
        }
        let mut keys = Keys::of(text)?;
        let pages = keys.pages.take();
        if pages.is_some() && keys.scope == Scope::All {
            return Err(CacheSpecError::PagesOfAll);
        }
        Ok(Self { text: text.to_owned(), config: Some(keys.config()?), pages })
    }
}

/// What has been said so far.
struct Keys {
    size: Option<u64>,
    sets: Option<u64>,
    ways: u64,
    line: u64,
    policy: Policy,
    write: WritePolicy,
    allocate: bool,
    write_back: WriteBack,
    second: Option<u64>,
    second_ways: Option<u64>,
    second_policy: Option<Policy>,
    schedule: Schedule,
    scope: Scope,
    pages: Option<PathBuf>,
    seed: Option<u64>,
}

/// Bytes of the first level, unless something else is said.
const SIZE: u64 = 32 << 10;
const SECOND_WAYS: u64 = 16;

impl Keys {
    const fn new() -> Self {
        Self {
            size: None,
            sets: None,
            ways: 8,
            line: 64,
            policy: Policy::Lru,
            write: WritePolicy::Back,
            allocate: true,
            write_back: WriteBack::Line,
            second: None,
            second_ways: None,
            second_policy: None,
            schedule: Schedule::None,
            scope: Scope::All,
            pages: None,
            seed: None,
        }
    }

    /// A preset may come first; what follows changes it.
    fn of(text: &str) -> Result<Self, CacheSpecError> {
        let mut keys = Self::new();
        let mut words = text.split(',').peekable();
        let preset = words.peek().and_then(|word| PRESETS.iter().find(|(name, _)| name == word));
        if let Some((_, preset)) = preset {
            words.next();
            for pair in preset.split(',') {
                keys.take(pair)?;
            }
        }
        let mut seen = Vec::new();
        for word in words {
            let key = word.split_once('=').map_or(word, |(key, _)| key);
            if seen.contains(&key) {
                return Err(CacheSpecError::Twice(key.to_owned()));
            }
            seen.push(key);
            keys.take(word)?;
        }
        if seen.contains(&"size") && seen.contains(&"sets") {
            return Err(CacheSpecError::SizeAndSets);
        }
        Ok(keys)
    }

    fn take(&mut self, pair: &str) -> Result<(), CacheSpecError> {
        let (key, value) = pair.split_once('=').ok_or_else(|| CacheSpecError::NotAKey(pair.to_owned()))?;
        let bad = |reason: String| CacheSpecError::BadValue { key: key.into(), value: value.into(), reason };
        let number = || value.parse::<u64>().map_err(|error| bad(error.to_string()));
        let size = || match value.parse() {
            Ok(bytes) => Ok(bytes),
            Err(_) => parse_size(value).map_err(bad),
        };
        let policies = [
            ("lru", Policy::Lru),
            ("fifo", Policy::Fifo),
            ("plru", Policy::TreePlru),
            ("random", Policy::Random { seed: 0 }),
        ];
        match key {
            "size" => (self.size, self.sets) = (Some(size()?), None),
            "sets" => (self.size, self.sets) = (None, Some(number()?)),
            "ways" => self.ways = number()?,
            "line" => self.line = number()?,
            "policy" => self.policy = choice(value, &policies).map_err(bad)?,
            "write" => {
                let writes = [("back", WritePolicy::Back), ("through", WritePolicy::Through)];
                self.write = choice(value, &writes).map_err(bad)?;
            }
            "alloc" => self.allocate = choice(value, &[("yes", true), ("no", false)]).map_err(bad)?,
            "writeback" => {
                let extents = [("line", WriteBack::Line), ("bytes", WriteBack::Bytes)];
                self.write_back = choice(value, &extents).map_err(bad)?;
            }
            "l2" => self.second = Some(size()?),
            "l2-ways" => self.second_ways = Some(number()?),
            "l2-policy" => self.second_policy = Some(choice(value, &policies).map_err(bad)?),
            "schedule" => {
                let schedules =
                    [("none", Schedule::None), ("random", Schedule::Random), ("worst", Schedule::Worst)];
                self.schedule = choice(value, &schedules).map_err(bad)?;
            }
            "scope" => {
                self.scope = choice(value, &[("all", Scope::All), ("dma", Scope::Dma)]).map_err(bad)?
            }
            "pages" if value.is_empty() => return Err(bad("name a file".into())),
            "pages" => self.pages = Some(value.into()),
            "seed" => self.seed = Some(number()?),
            _ => return Err(CacheSpecError::UnknownKey(key.to_owned())),
        }
        Ok(())
    }

    fn config(self) -> Result<CacheConfig, CacheSpecError> {
        let seed = self.seed.unwrap_or(0);
        let seeded = |policy| match policy {
            Policy::Random { .. } => Policy::Random { seed },
            other => other,
        };
        let first = match self.sets {
            Some(sets) => sets,
            None => sets("size", self.size.unwrap_or(SIZE), self.ways, self.line)?,
        };
        let mut model = Config::new(Geometry::new(self.line, first, self.ways)?, seeded(self.policy))?
            .with_write(self.write)
            .with_allocate(self.allocate)
            .with_write_back(self.write_back)
            .with_schedule(self.schedule);
        match self.second {
            Some(size) => {
                let ways = self.second_ways.unwrap_or(SECOND_WAYS);
                let geometry = Geometry::new(self.line, sets("l2", size, ways, self.line)?, ways)?;
                model =
                    model.with_second_level(geometry, seeded(self.second_policy.unwrap_or(self.policy)))?;
            }
            None if self.second_ways.is_some() || self.second_policy.is_some() => {
                return Err(CacheSpecError::NoSecondLevel);
            }
            None => {}
        }
        Ok(CacheConfig { model, scope: self.scope, seed: self.seed })
    }
}

/// Sets of `ways` lines in `size` bytes. Impossible lines and ways are for [`Geometry::new`] to refuse.
fn sets(key: &'static str, size: u64, ways: u64, line: u64) -> Result<u64, CacheSpecError> {
    match ways.checked_mul(line) {
        None | Some(0) => Ok(1),
        Some(_) if !line.is_power_of_two() => Ok(1),
        Some(set) if size != 0 && size.is_multiple_of(set) => Ok(size / set),
        Some(set) => Err(CacheSpecError::Size { key, size, set }),
    }
}

fn choice<T: Copy>(value: &str, values: &[(&str, T)]) -> Result<T, String> {
    let found = values.iter().find(|(name, _)| *name == value);
    found.map(|(_, found)| *found).ok_or_else(|| {
        let names: Vec<_> = values.iter().map(|(name, _)| *name).collect();
        format!("valid values: {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> CacheConfig {
        *text.parse::<CacheSpec>().unwrap().config().unwrap()
    }

    #[test]
    fn a_specification_is_a_preset_and_changes_to_it() {
        assert!("off".parse::<CacheSpec>().unwrap().is_off());
        for (name, text) in PRESETS {
            assert_eq!(config(name), config(text), "{name}");
        }
        let spec = config("worst,ways=4,size=16K,scope=dma,seed=7");
        assert_eq!((spec.scope, spec.seed, spec.model.schedule()), (Scope::Dma, Some(7), Schedule::Worst));
        assert_eq!((spec.model.geometry().ways(), spec.model.geometry().sets()), (4, 64));
        assert_eq!(config("sets=64").model.geometry(), config("size=32K,ways=8,line=64").model.geometry());
        assert_eq!(config("size=32768"), config("l1"));
        assert_eq!("l1,line=32".parse::<CacheSpec>().unwrap().to_string(), "l1,line=32");
        assert_eq!("dma,pages=a/b".parse::<CacheSpec>().unwrap().pages(), Some(Path::new("a/b")));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (text, reason) in [
            ("on", "'on' is neither a preset (l1, "),
            ("", "'' is neither a preset"),
            ("l1,tiny", "'tiny' is neither a preset"),
            ("color=red", "there is no key 'color' (known keys: size, "),
            ("ways=2,ways=2", "'ways' is given twice"),
            ("ways=0", "ways=0: a set has at least one way"),
            ("line=48", "line=48: a line is a power of two"),
            ("line=512,size=64K", "line=512: a line is a power of two"),
            ("size=1K,ways=3", "size=1024 is not a whole number of sets: a set is 192 bytes (ways × line)"),
            ("size=0K", "size=0 is not a whole number of sets"),
            ("size=1G,sets=4", "size= and sets= say the same thing"),
            ("size=4G", "at most 1048576 lines"),
            ("sets=0", "sets=0: a cache has at least one set"),
            ("size=big", "size=big: 'bi' is not a whole number"),
            ("ways=3,size=12K,line=64,policy=plru", "policy=plru needs a power of two"),
            ("policy=mru", "policy=mru: valid values: lru, fifo, plru, random"),
            ("scope=some", "scope=some: valid values: all, dma"),
            ("seed=-1", "seed=-1: invalid digit"),
            ("dma,pages=", "pages=: name a file"),
            ("l1,pages=list", "pages=FILE needs scope=dma"),
            ("l2-ways=4", "l2-ways and l2-policy need l2=SIZE"),
            ("l2=100K,l2-ways=3", "l2=102400 is not a whole number of sets: a set is 192 bytes"),
        ] {
            let error = text.parse::<CacheSpec>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
