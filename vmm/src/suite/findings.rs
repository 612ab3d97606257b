//! Which findings a run has to raise.

use super::pattern::Pattern;
use crate::findings::{Counts, Frame, Mapped, Report, title};
use cache_model::Verdict;
use cache_model::judge::{Blame, Kind};
use cache_model::trace::hex;
use serde::de::{self, IntoDeserializer};
use serde::{Deserialize, Deserializer};
use std::fmt::{self, Write};

/// Findings that a message names.
const NAMED: usize = 5;

/// What a finding is like; what is not said can be anything.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FindingPattern {
    #[serde(default)]
    kind: Choice<Kind>,
    #[serde(default)]
    verdict: Choice<Verdict>,
    #[serde(default)]
    blame: Choice<Blamed>,
    /// In the place of the culprit's access: symbol or address, task; or device.
    culprit: Option<Pattern>,
    victim: Option<Pattern>,
    /// In the backtrace of the mapping, a frame a line.
    mapped_by: Option<Pattern>,
    /// Likewise of the mapping's end.
    unmapped_by: Option<Pattern>,
    /// In the name of the mapping's device.
    device: Option<Pattern>,
    /// In the bytes, in hexadecimal.
    expected: Option<Pattern>,
    found: Option<Pattern>,
    /// How many different findings are like this; one or more by default.
    count: Option<usize>,
    /// There may be none.
    #[serde(default)]
    optional: bool,
}

/// Whose fault a finding is.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Blamed {
    Driver,
    /// Whatever the reason.
    Platform,
    /// The platform's, where the user-space API has no call that would have helped.
    UapiCannotSync,
}

impl Blamed {
    fn is(self, report: &Report) -> bool {
        match self {
            Self::Driver => report.blame == Blame::Driver,
            Self::Platform => report.blame == Blame::Platform,
            Self::UapiCannotSync => report.uapi_cannot_sync,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Driver => Blame::Driver.name(),
            Self::Platform => Blame::Platform.name(),
            Self::UapiCannotSync => "uapi-cannot-sync",
        }
    }
}

/// One value, or any of several.
#[derive(Debug, Clone)]
struct Choice<T>(Vec<T>);

impl<T> Default for Choice<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Choice<T> {
    /// Whether one of them is what is wanted.
    fn is_met(&self, is: impl Fn(&T) -> bool) -> bool {
        self.0.is_empty() || self.0.iter().any(is)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Choice<T> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Visitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = Choice<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name, or a list of names")
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
                T::deserialize(name.into_deserializer()).map(|one| Choice(vec![one]))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                let names = Vec::<T>::deserialize(de::value::SeqAccessDeserializer::new(list))?;
                if names.is_empty() {
                    return Err(de::Error::custom("a list without a name is never met"));
                }
                Ok(Choice(names))
            }
        }
        input.deserialize_any(Visitor(std::marker::PhantomData))
    }
}

impl FindingPattern {
    /// Whether it is like this.
    pub(super) fn is_like(&self, report: &Report) -> bool {
        let is_in = |pattern: &Option<Pattern>, text: Option<String>| {
            pattern.as_ref().is_none_or(|pattern| text.is_some_and(|text| pattern.is_in(&text)))
        };
        let mapping = report.mapping.as_ref();
        let frames = |of: fn(&Mapped) -> &[Frame]| {
            let mut text = String::new();
            for frame in of(mapping?) {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{frame}");
            }
            Some(text)
        };
        self.kind.is_met(|&kind| kind == report.kind)
            && self.verdict.is_met(|&verdict| verdict == report.verdict)
            && self.blame.is_met(|blame| blame.is(report))
            && is_in(&self.culprit, report.culprit.as_ref().map(|culprit| culprit.site()))
            && is_in(&self.victim, report.victim.as_ref().map(|victim| victim.site()))
            && is_in(&self.mapped_by, frames(|mapping| &mapping.backtrace))
            && is_in(&self.unmapped_by, frames(|mapping| &mapping.unmap_backtrace))
            && is_in(&self.device, mapping.map(|mapping| mapping.device.clone()))
            && is_in(&self.expected, Some(hex(&report.expected)))
            && is_in(&self.found, Some(hex(&report.found)))
    }
}

impl fmt::Display for FindingPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = Vec::new();
        let mut names = |key: &str, names: Vec<&'static str>| {
            if !names.is_empty() {
                said.push(format!("{key} {}", names.join(" or ")));
            }
        };
        names("kind", self.kind.0.iter().map(|kind| kind.name()).collect());
        names("verdict", self.verdict.0.iter().map(|&verdict| verdict_name(verdict)).collect());
        names("blame", self.blame.0.iter().map(|blame| blame.name()).collect());
        let patterns = [
            ("culprit", &self.culprit),
            ("victim", &self.victim),
            ("mapped by", &self.mapped_by),
            ("unmapped by", &self.unmapped_by),
            ("device", &self.device),
            ("expected", &self.expected),
            ("found", &self.found),
        ];
        for (key, pattern) in patterns {
            said.extend(pattern.as_ref().map(|pattern| format!("{key} {pattern}")));
        }
        f.write_str(if said.is_empty() { "anything" } else { "" })?;
        f.write_str(&said.join(", "))
    }
}

fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Manifest => "manifest",
        Verdict::Latent => "latent",
    }
}

/// A finding in a message.
#[must_use]
pub fn summary(report: &Report) -> String {
    let mut text = format!("{} ({})", title(report.kind), verdict_name(report.verdict));
    for (word, access) in [("in", &report.victim), ("by", &report.culprit)] {
        if let Some(access) = access {
            let _ = write!(text, " {word} {}", access.site());
        }
    }
    text
}

/// What is not as it should be in the findings of a run: all of them have to be like one of `wanted`, and there has to be
/// one like each.
pub fn problems(wanted: &[FindingPattern], reports: &[Report], counts: Counts) -> Vec<String> {
    let mut problems = Vec::new();
    for pattern in wanted {
        let count = reports.iter().filter(|report| pattern.is_like(report)).count();
        match pattern.count {
            Some(wanted) if wanted != count && !(pattern.optional && count == 0) => {
                problems.push(format!("{count} findings, not {wanted}, are as expected: {pattern}"));
            }
            None if count == 0 && !pattern.optional => {
                problems.push(format!("no finding is as expected: {pattern}"));
            }
            _ => {}
        }
    }
    let unexpected: Vec<_> =
        reports.iter().filter(|report| !wanted.iter().any(|pattern| pattern.is_like(report))).collect();
    problems.extend(unexpected.iter().take(NAMED).map(|report| format!("unexpected: {}", summary(report))));
    if let Some(more) = unexpected.len().checked_sub(NAMED).filter(|&more| more > 0) {
        problems.push(format!("unexpected: {more} more findings"));
    }
    if counts.dropped > 0 {
        problems.push(format!("{} findings are not kept, so nothing can be said about them", counts.dropped));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::samples::stale_cpu_read;

    fn patterns(text: &str) -> Vec<FindingPattern> {
        #[derive(Deserialize)]
        struct File {
            findings: Vec<FindingPattern>,
        }
        toml::from_str::<File>(&format!("findings = {text}")).unwrap().findings
    }

    fn of(text: &str, reports: &[Report]) -> Vec<String> {
        problems(&patterns(text), reports, Counts::default())
    }

    #[test]
    fn every_finding_is_expected_and_every_expectation_met() {
        let report = stale_cpu_read();
        assert!(of("[]", &[]).is_empty());
        let unexpected = "unexpected: stale CPU read (manifest) in 0x401234 [onesided pid 71] by 0000:08:00.0 mlx5 (RDMA WRITE qpn 0x42 mkey 0x1200)";
        assert_eq!(of("[]", std::slice::from_ref(&report)), [unexpected]);
        for met in [
            "[{}]",
            "[{ blame = 'platform' }]",
            "[{ kind = 'stale-cpu-read', verdict = 'manifest', blame = 'uapi-cannot-sync' }]",
            "[{ kind = ['stale-device-read', 'stale-cpu-read'], verdict = ['manifest', 'latent'], count = 1 }]",
            "[{ culprit = 'mlx5', victim = { regex = 'onesided pid [0-9]+' }, device = '0000:08:00.0' }]",
            "[{ mapped-by = { regex = '^ib_umem_get' }, expected = '01', found = '00' }]",
            "[{ victim = 'onesided' }, { verdict = 'latent', optional = true }]",
        ] {
            assert_eq!(of(met, std::slice::from_ref(&report)), Vec::<String>::new(), "{met}");
        }
        assert_eq!(
            of("[{ blame = 'driver' }]", std::slice::from_ref(&report)),
            ["no finding is as expected: blame driver", unexpected]
        );
        let plain = Report { uapi_cannot_sync: false, ..stale_cpu_read() };
        assert!(of("[{ blame = 'platform' }]", std::slice::from_ref(&plain)).is_empty());
        assert_eq!(of("[{ blame = 'uapi-cannot-sync' }]", &[plain]).len(), 2);
        assert_eq!(
            of("[{ verdict = 'latent', culprit = 'x' }]", std::slice::from_ref(&report)),
            ["no finding is as expected: verdict latent, culprit \"x\"", unexpected]
        );
        assert_eq!(
            of("[{ kind = ['stale-cpu-read', 'lost-dma-write'], count = 2 }]", &[report]),
            ["1 findings, not 2, are as expected: kind stale-cpu-read or lost-dma-write"]
        );
    }

    #[test]
    fn a_flood_is_named_in_part_and_what_is_not_kept_proves_nothing() {
        let reports = vec![stale_cpu_read(); NAMED + 2];
        let found = of("[]", &reports);
        assert_eq!((found.len(), &*found[NAMED]), (NAMED + 1, "unexpected: 2 more findings"));
        let counts = Counts { dropped: 3, ..Counts::default() };
        assert_eq!(problems(&patterns("[{}]"), &reports, counts).len(), 1);
    }

    #[test]
    fn what_no_finding_can_be_is_refused() {
        for (text, reason) in [
            ("[{ kind = 'stale' }]", "unknown variant `stale`"),
            ("[{ verdict = [] }]", "a list without a name is never met"),
            ("[{ blame = 1 }]", "a name, or a list of names"),
            ("[{ colour = 'red' }]", "unknown field `colour`"),
        ] {
            let table: toml::Table = toml::from_str(&format!("findings = {text}")).unwrap();
            let error = Vec::<FindingPattern>::deserialize(table["findings"].clone()).unwrap_err();
            assert!(error.to_string().contains(reason), "{text}: {error}");
        }
    }
}
