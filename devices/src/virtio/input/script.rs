//! Scripts of input events: what happens when, one thing a line.
//!
//! ```text
//! # time after the driver has started   what happens
//! 2s      key A               pressed and released
//! 2500ms  key LEFTSHIFT down
//! 3s      key LEFTSHIFT up
//! 3s      abs X 1000
//! 3s      event 1 30 1        type, code and value as they are; no end-of-report follows
//! ```

use super::{ABS_MAX, ABS_X, ABS_Y, EV_ABS, EV_KEY, Event};
use crate::bus::Nanos;
use crate::duration;
use serde::{Deserialize, Serialize};

/// Names and codes of keys and buttons.
const KEYS: &str = include_str!("keys.txt");

/// Most events of a script.
const MAX_EVENTS: usize = 100_000;

/// Events, each with its time after the driver's start, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Script {
    pub(super) events: Vec<(Nanos, Event)>,
}

/// A script cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    #[error("'{0}' is not a time (such as 2s, 1500ms or 20us)")]
    BadTime(String),
    #[error(
        "no key has the name '{0}' (names are those of Linux without KEY_: A, ENTER, LEFTSHIFT, BTN_LEFT)"
    )]
    UnknownKey(String),
    #[error("'{0}' is not an event (key NAME [down|up], abs X|Y POSITION, event TYPE CODE VALUE)")]
    BadEvent(String),
    #[error("it happens before the line above it")]
    OutOfOrder,
    #[error("more than {MAX_EVENTS} events")]
    TooLong,
    #[error("line {line}: {error}")]
    Line { line: usize, error: Box<ScriptError> },
}

/// All keys and buttons.
pub(super) fn keys() -> impl Iterator<Item = (&'static str, u16)> {
    KEYS.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, code)| Some((name, code.parse().ok()?)))
}

fn key(name: &str) -> Result<u16, ScriptError> {
    let found = keys().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, code)| code).ok_or_else(|| ScriptError::UnknownKey(name.to_owned()))
}

fn time(text: &str) -> Result<Nanos, ScriptError> {
    duration::parse(text).ok_or_else(|| ScriptError::BadTime(text.to_owned()))
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// [`ScriptError`] with the number of the line that is wrong.
    pub fn parse(text: &str) -> Result<Self, ScriptError> {
        let mut script = Self::default();
        for (line, number) in text.lines().zip(1..) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                script
                    .add_line(line)
                    .map_err(|error| ScriptError::Line { line: number, error: Box::new(error) })?;
            }
        }
        Ok(script)
    }

    /// The keys in `text`, pressed one after another: `A+B+ENTER@2s`, or without a time one second after the driver's start.
    ///
    /// # Errors
    /// [`ScriptError`] if a key or the time is unknown.
    pub fn keys(text: &str) -> Result<Self, ScriptError> {
        let (names, at) = text.split_once('@').unwrap_or((text, "1s"));
        let at = time(at)?;
        let mut script = Self::default();
        for name in names.split('+') {
            script.press(at, key(name)?);
        }
        Ok(script)
    }

    fn add_line(&mut self, line: &str) -> Result<(), ScriptError> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [at, words @ ..] = words.as_slice() else { return Ok(()) };
        let at = time(at)?;
        if self.events.last().is_some_and(|(last, _)| *last > at) {
            return Err(ScriptError::OutOfOrder);
        }
        if self.events.len() >= MAX_EVENTS {
            return Err(ScriptError::TooLong);
        }
        let bad = || ScriptError::BadEvent(words.join(" "));
        let number = |text: &str| text.parse::<u32>().map_err(|_| bad());
        match words {
            ["key", name] => self.press(at, key(name)?),
            ["key", name, "down"] => self.report(at, EV_KEY, key(name)?, 1),
            ["key", name, "up"] => self.report(at, EV_KEY, key(name)?, 0),
            ["abs", axis @ ("X" | "Y"), position] => {
                let value = number(position)?;
                if value > ABS_MAX {
                    return Err(bad());
                }
                self.report(at, EV_ABS, if *axis == "X" { ABS_X } else { ABS_Y }, value);
            }
            ["event", kind, code, value] => {
                let short = |text| number(text).and_then(|value| u16::try_from(value).map_err(|_| bad()));
                self.events
                    .push((at, Event { kind: short(kind)?, code: short(code)?, value: number(value)? }));
            }
            _ => return Err(bad()),
        }
        Ok(())
    }

    fn report(&mut self, at: Nanos, kind: u16, code: u16, value: u32) {
        self.events.extend([(at, Event { kind, code, value }), (at, Event::SYNC)]);
    }

    fn press(&mut self, at: Nanos, code: u16) {
        self.report(at, EV_KEY, code, 1);
        self.report(at, EV_KEY, code, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_read() {
        let script =
            Script::parse("# nothing\n\n2s key a # pressed\n2500ms key LEFTSHIFT down\n3s event 4 4 9")
                .unwrap();
        let found: Vec<_> = script
            .events
            .iter()
            .map(|(at, event)| (*at / 1_000_000, event.kind, event.code, event.value))
            .collect();
        let key = [(2000, 1, 30, 1), (2000, 0, 0, 0), (2000, 1, 30, 0), (2000, 0, 0, 0)];
        assert_eq!(found[..4], key);
        assert_eq!(found[4..], [(2500, 1, 42, 1), (2500, 0, 0, 0), (3000, 4, 4, 9)]);
        assert_eq!(Script::keys("A@2s").unwrap().events, script.events[..4]);
        assert_eq!(Script::keys("A+enter").unwrap().events.len(), 8);
        assert_eq!(
            Script::parse("1s abs Y 32767").unwrap().events[0].1,
            Event { kind: 3, code: 1, value: 32767 }
        );
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let error = |text: &str| Script::parse(text).unwrap_err().to_string();
        assert_eq!(error("\nsoon key A"), "line 2: 'soon' is not a time (such as 2s, 1500ms or 20us)");
        assert!(error("1s key ANY").contains("no key has the name 'ANY'"));
        assert!(error("1s abs X 32768").contains("'abs X 32768' is not an event"));
        assert!(error("1s").contains("'' is not an event"));
        assert!(error("2s key A\n1s key A").contains("line 2: it happens before"));
        assert!(error("99999999999s key A").contains("is not a time"));
        assert!(error("1s event 1 65536 1").contains("is not an event"));
    }

    #[test]
    fn key_names_are_unique() {
        let names: std::collections::BTreeSet<_> = keys().map(|(name, _)| name).collect();
        assert_eq!(names.len(), keys().count());
        assert_eq!(names.len() + 1, KEYS.lines().count(), "every line but the first is a key");
    }
}
