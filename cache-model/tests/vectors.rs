//! The published vectors: small traces with expected contents of both views.

use cache_model::replay;

const VECTORS: &str = include_str!("data/coherence-vectors.txt");

#[test]
fn all_vectors_hold() {
    let report = replay::run(VECTORS).expect("the vectors are well-formed");
    assert_eq!(report.failed, []);
    assert_eq!(VECTORS.lines().filter(|line| line.starts_with("config")).count(), 18);
}

/// Each expectation is really compared: with one digit changed, exactly that line fails.
#[test]
fn every_expectation_counts() {
    let lines: Vec<&str> = VECTORS.lines().collect();
    let expectations = lines.iter().enumerate().filter(|(_, line)| line.starts_with("expect"));
    for (index, line) in expectations {
        let wrong = match line.strip_suffix('0') {
            Some(start) => format!("{start}e"),
            None => format!("{}0", &line[..line.len() - 1]),
        };
        let mut changed = lines.clone();
        changed[index] = &wrong;
        let report = replay::run(&changed.join("\n")).expect("still well-formed");
        let failed: Vec<u64> = report.failed.iter().map(|failure| failure.line_no).collect();
        assert_eq!(failed, [index as u64 + 1], "{wrong}");
    }
}
