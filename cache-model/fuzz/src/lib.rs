//! What must hold of any bytes that are replayed as a trace.

use cache_model::replay::{Error, Replay, Report};
use cache_model::trace::{Machine, Op, Parser};

/// A larger machine is not run: hashing its memory takes time and shows nothing.
const MAX_MEMORY: u64 = 1 << 20;
const MAX_LINES: usize = 1 << 12;

/// Replays `trace`.
///
/// # Panics
/// If the result depends on where the trace is cut into pieces, an operation is not read as it is written, a memory or a
/// cache at the end is not what it says it is, or anything in the cache model panics.
pub fn run(trace: &[u8]) {
    let Some(written) = rewritten(trace) else { return };
    let whole = replay(trace, trace.len().max(1));
    for size in [1, 7] {
        assert_eq!(replay(trace, size), whole, "in pieces of {size}");
    }
    // Comments and spelling mean nothing; what cannot be read ends the trace where it stands.
    match (replay(&written, written.len().max(1)), &whole) {
        (Ok(same), Ok(report)) => assert_eq!(&same, report),
        (Err(same), Err(error)) => assert_eq!(same.line_no, error.line_no),
        (same, _) => panic!("as written anew: {same:?}, not {whole:?}"),
    }
    if let Ok(report) = whole {
        let stats = report.stats;
        assert!(stats.fills >= stats.evictions, "{stats:?}");
        assert_eq!((report.ram.len(), report.cpu.len()), (64, 64));
    }
}

fn replay(trace: &[u8], size: usize) -> Result<Report, Error> {
    let mut replay = Replay::new();
    for piece in trace.chunks(size) {
        replay.feed(piece)?;
    }
    replay.finish()
}

/// The trace as its operations are written; none if it has a machine that is too large to be run.
fn rewritten(trace: &[u8]) -> Option<Vec<u8>> {
    let mut parser = Parser::default();
    let (mut rest, mut written) = (trace, Vec::new());
    while !rest.is_empty() {
        match parser.next(&mut rest) {
            Ok(None) => {}
            Ok(Some(op)) => {
                if let Op::Config(machine) = &op {
                    let Machine { config, memory, .. } = **machine;
                    let second = config.second_level().map_or(0, |(geometry, _)| geometry.lines());
                    if memory > MAX_MEMORY || config.geometry().lines() + second > MAX_LINES {
                        return None;
                    }
                }
                op.append_to(&mut written);
            }
            Err(_) => {
                written.extend_from_slice(b"?\n");
                break;
            }
        }
        written.push(b'\n');
    }
    Some(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn seeds_and_what_is_near_them() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
        let mut seeds: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        seeds.sort();
        assert!(seeds.len() >= 5);
        for seed in seeds {
            let text = std::fs::read(&seed).unwrap();
            assert!(replay(&text, text.len()).is_ok(), "{}", seed.display());
            run(&text);
            for at in 0..text.len() {
                let mut mangled = text.clone();
                mangled[at] = b"0 f\n#x\xff9"[at % 8];
                run(&mangled);
                run(&[&text[..at], &text[text.len() - at..]].concat());
            }
        }
    }
}
