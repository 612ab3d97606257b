//! JSON.

use crate::suite::results::{ScenarioResult, Summary};
use serde::Serialize;

/// Goes up when a reader has to know.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    summary: Summary,
    scenarios: &'a [ScenarioResult],
}

pub(super) fn render(scenarios: &[ScenarioResult]) -> serde_json::Result<String> {
    let report = Report { version: VERSION, summary: Summary::of(scenarios), scenarios };
    serde_json::to_string_pretty(&report).map(|text| text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::report::samples;

    #[test]
    fn a_reader_finds_every_case() {
        let value: serde_json::Value = serde_json::from_str(&render(&samples::results()).unwrap()).unwrap();
        assert_eq!(value["version"], 1);
        assert_eq!(
            value["summary"],
            serde_json::json!({"passed": 1, "failed": 2, "errors": 2, "unavailable": 1, "not-run": 1})
        );
        let case = &value["scenarios"][0]["cases"][1];
        assert_eq!(case["id"], "one/a=2/seed-1");
        assert_eq!(case["verdict"], "failed");
        assert_eq!(case["cell"]["a"], "2");
        assert_eq!(case["checks"][1]["problems"][0], samples::PROBLEM);
        assert_eq!(case["ended"]["virtual_nanos"], 1_500_000_000_u64);
        assert!(value["scenarios"][1]["error"].as_str().unwrap().contains("b.toml:1:2"));
    }
}
