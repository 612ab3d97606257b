//! What of a run has to have gone through bounce buffers.

use super::pattern::Pattern;
use crate::ledger::{BounceReport, Bounced, Report};
use serde::{Deserialize, Deserializer, de};
use std::fmt;

/// What the mappings of a device, those made at a place, or all have had bounced; what is not said can be anything.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BouncePattern {
    /// In the device's name.
    device: Option<Pattern>,
    /// In the backtrace of the mapping, a frame a line.
    mapped_by: Option<Pattern>,
    /// Buffers that were got.
    maps: Option<Amount>,
    /// Those for which there was no room.
    failed: Option<Amount>,
    /// Bytes copied to buffers.
    to_device: Option<Amount>,
    /// Bytes copied back.
    from_device: Option<Amount>,
    /// Slots of all buffers that were got.
    slots: Option<Amount>,
    /// Slots in use at the end.
    used: Option<Amount>,
    /// Most slots that were in use at a time.
    high_water: Option<Amount>,
}

/// A number, or `{ min, max }`, both of which count.
#[derive(Debug, Clone, Copy)]
struct Amount {
    min: u64,
    max: u64,
}

impl Amount {
    fn is(self, number: u64) -> bool {
        (self.min..=self.max).contains(&number)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self { min, max } if min == max => write!(f, "{min}"),
            Self { min, max: u64::MAX } => write!(f, "{min} or more"),
            Self { min: 0, max } => write!(f, "{max} or less"),
            Self { min, max } => write!(f, "{min} to {max}"),
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Range {
            min: Option<u64>,
            max: Option<u64>,
        }
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "it is a number, or a range: { min = 1, max = 5 }")]
        enum Either {
            Exactly(u64),
            Within(Range),
        }
        let (min, max) = match Either::deserialize(input)? {
            Either::Exactly(number) => (number, number),
            Either::Within(Range { min: None, max: None }) => {
                return Err(de::Error::custom("a range has min, max or both"));
            }
            Either::Within(range) => (range.min.unwrap_or(0), range.max.unwrap_or(u64::MAX)),
        };
        if min > max {
            return Err(de::Error::custom(format!("no number is {min} or more and {max} or less")));
        }
        Ok(Self { min, max })
    }
}

impl BouncePattern {
    /// What it is about: the sum, but for the most slots at a time, which are those of the mapping that had most.
    fn sum(&self, report: &BounceReport) -> Bounced {
        let is_in = |pattern: &Option<Pattern>, text: &str| {
            pattern.as_ref().is_none_or(|pattern| pattern.is_in(text))
        };
        let parts: Vec<Bounced> = match (&self.device, &self.mapped_by) {
            (None, None) => return report.all,
            (_, None) => {
                let devices = report.devices.iter().filter(|one| is_in(&self.device, &one.device));
                devices.map(|one| one.bounced).collect()
            }
            (_, Some(_)) => {
                let mappings = report.mappings.iter().filter(|one| {
                    is_in(&self.device, &one.device) && is_in(&self.mapped_by, &one.trace.join("\n"))
                });
                mappings.map(|one| one.bounced).collect()
            }
        };
        let high_water = parts.iter().map(|part| part.high_water).max().unwrap_or(0);
        let mut sum = Bounced::default();
        parts.into_iter().for_each(|part| sum += part);
        Bounced { high_water, ..sum }
    }

    fn problems(&self, report: &BounceReport) -> Vec<String> {
        let Bounced { maps, failed, to_device, from_device, slots, used, high_water } = self.sum(report);
        let counts = [
            ("buffers", self.maps, maps),
            ("requests without room", self.failed, failed),
            ("bytes to the device", self.to_device, to_device),
            ("bytes back", self.from_device, from_device),
            ("slots in all", self.slots, slots),
            ("slots in use", self.used, used),
            ("slots in use at most", self.high_water, high_water),
        ];
        let wrong = counts.into_iter().filter_map(|(what, wanted, number)| {
            let wanted = wanted.filter(|wanted| !wanted.is(number))?;
            Some(format!("bounced{self}: {number} {what}, not {wanted}"))
        });
        wrong.collect()
    }
}

/// Whose it is.
impl fmt::Display for BouncePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.device.iter().try_for_each(|device| write!(f, " for device {device}"))?;
        self.mapped_by.iter().try_for_each(|place| write!(f, " for mappings by {place}"))
    }
}

/// What has not gone through bounce buffers as it should have. That the kernel counts otherwise than the ledger is a problem, too.
pub(super) fn problems(wanted: &[BouncePattern], ledger: Option<&Report>) -> Vec<String> {
    let Some(ledger) = ledger else {
        return vec!["there was no ledger to follow bounce buffers: ledger = \"on\" in [guest]".into()];
    };
    let Some(report) = &ledger.bounced else {
        let reason = ledger.off.as_deref().unwrap_or("the kernel has none");
        return vec![format!("bounce buffers were not followed: {reason}")];
    };
    let mut problems: Vec<_> = wanted.iter().flat_map(|pattern| pattern.problems(report)).collect();
    if report.agrees() == Some(false) {
        let Bounced { used, high_water, .. } = report.all;
        problems.push(format!(
            "the kernel counts bounce buffers otherwise: {:?}, the ledger has {used} slots in use, {high_water} at most",
            report.kernel
        ));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::SwiotlbUsage;
    use crate::ledger::{BouncedDevice, BouncedMapping, Coverage};

    const BOUNCED: Bounced =
        Bounced { maps: 2, failed: 1, to_device: 4096, from_device: 0, slots: 4, used: 2, high_water: 3 };

    fn ledger() -> Report {
        let mapping = |place: &str| BouncedMapping {
            device: "0000:08:00.0".into(),
            trace: vec![place.into(), "do_syscall_64+0x1".into()],
            bounced: BOUNCED,
        };
        let all = Bounced { high_water: 6, ..BOUNCED };
        let report = BounceReport {
            all,
            kernel: Some(SwiotlbUsage { slots: 100, used: 2, high_water: Some(6) }),
            largest_failure: 0,
            failures: Vec::new(),
            devices: vec![BouncedDevice { device: "0000:08:00.0".into(), bounced: all }],
            mappings: vec![mapping("ib_umem_get+0x1"), mapping("probe+0x5")],
        };
        let coverage = Coverage::default();
        Report { off: None, coverage, mapped: 2, unknown: 0, bounced: Some(report), records: Vec::new() }
    }

    fn of(text: &str, ledger: &Report) -> Vec<String> {
        let table: toml::Table = toml::from_str(&format!("bounced = {text}")).unwrap();
        problems(&Vec::deserialize(table["bounced"].clone()).unwrap(), Some(ledger))
    }

    #[test]
    fn numbers_are_those_of_all_of_devices_or_of_mappings() {
        for good in [
            "[]",
            "[{ maps = 2, failed = 1, high-water = 6 }]",
            "[{ device = '08:00', slots = { min = 4 }, from-device = 0, used = { max = 2 } }]",
            "[{ device = '09:00', maps = 0, high-water = 0 }]",
            "[{ mapped-by = 'ib_umem_get', maps = 2, to-device = 4096 }]",
            "[{ mapped-by = '+0x', maps = 4, high-water = 3 }]",
        ] {
            assert_eq!(of(good, &ledger()), [""; 0], "{good}");
        }
        assert_eq!(
            of(
                "[{ device = '08', mapped-by = 'nobody', maps = { min = 1 } }, { used = { min = 3, max = 4 } }]",
                &ledger()
            ),
            [
                "bounced for device \"08\" for mappings by \"nobody\": 0 buffers, not 1 or more",
                "bounced: 2 slots in use, not 3 to 4"
            ]
        );
    }

    #[test]
    fn the_kernel_has_to_agree_and_nothing_is_right_without_a_ledger() {
        let mut other = ledger();
        let kernel = Some(SwiotlbUsage { slots: 100, used: 3, high_water: None });
        other.bounced.as_mut().unwrap().kernel = kernel;
        assert!(of("[]", &other)[0].starts_with("the kernel counts bounce buffers otherwise"));
        other.bounced = None;
        assert_eq!(of("[]", &other), ["bounce buffers were not followed: the kernel has none"]);
        assert_eq!(problems(&[], None).len(), 1);
    }

    #[test]
    fn what_no_number_is_is_refused() {
        for bad in
            ["[{ maps = -1 }]", "[{ maps = 'x' }]", "[{ maps = {} }]", "[{ maps = { min = 2, max = 1 } }]"]
        {
            let table: toml::Table = toml::from_str(&format!("bounced = {bad}")).unwrap();
            assert!(Vec::<BouncePattern>::deserialize(table["bounced"].clone()).is_err(), "{bad}");
        }
    }
}
