//! Judges a guest's kernel log by the rules in `tests/data/kernel-log.toml`.

use serde::Deserialize;

const RULES: &str = include_str!("../data/kernel-log.toml");
/// The least severe level that needs a reason (include/linux/kern_levels.h): warning.
const WARNING: u32 = 4;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    trouble: Vec<String>,
    allowed: Vec<Allowed>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Allowed {
    release: String,
    contains: String,
    reason: String,
}

/// What a log comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    pub lines: usize,
    /// Lines that the rules allow.
    pub allowed: usize,
    pub unexpected: Vec<String>,
}

/// Judges the output of `dmesg -r` (`<PRIORITY>[TIME] TEXT` a line) of the kernel `release`.
pub fn judge(log: &str, release: &str) -> Judgement {
    let rules: Rules = toml::from_str(RULES).expect("the rules parse");
    assert!(rules.allowed.iter().all(|rule| !rule.reason.is_empty() && !rule.contains.is_empty()));
    let mut judgement = Judgement::default();
    for line in log.lines() {
        let Some((priority, text)) = line.strip_prefix('<').and_then(|rest| rest.split_once('>')) else {
            continue;
        };
        judgement.lines += 1;
        // The lower three bits are the level, the others the facility (include/linux/kern_levels.h, RFC 5424).
        let severe = priority.parse::<u32>().is_ok_and(|priority| priority & 7 <= WARNING);
        if !severe && !rules.trouble.iter().any(|trouble| text.contains(trouble.as_str())) {
            continue;
        }
        let allowed =
            |rule: &Allowed| release.starts_with(&rule.release) && text.contains(rule.contains.as_str());
        if rules.allowed.iter().any(allowed) {
            judgement.allowed += 1;
        } else {
            judgement.unexpected.push(line.to_owned());
        }
    }
    judgement
}

/// The judge itself, judged: it is no use if it cannot find anything.
pub fn finds_trouble_and_warnings_and_nothing_else() {
    let log = "<6>[    0.1] Linux version 6.1\n<4>[    0.2] x: strange\n<6>[    0.3] unchecked MSR access error\n\
               <12>[    0.4] init: warned\n<4>[    0.5] hello: loading out-of-tree module taints kernel.\n\
               not a record\n<30>[    0.6] daemon: started\n";
    let judgement = judge(log, "6.1.0");
    assert_eq!((judgement.lines, judgement.allowed), (6, 1));
    assert_eq!(
        judgement.unexpected,
        ["<4>[    0.2] x: strange", "<6>[    0.3] unchecked MSR access error", "<12>[    0.4] init: warned"]
    );
}
