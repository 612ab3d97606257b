//! Where findings go: standard error, a file of JSON Lines, and a folder of traces beside it.

use super::Context;
use super::collector::Found;
use super::report::Report;
use super::text::Text;
use cache_model::trace::hex;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Findings that are told in full as text; of later ones the first line is.
const IN_FULL: u64 = 10;
/// The folder of traces, beside the file.
const TRACES: &str = "traces";

/// A line of the file: the report, and what is the same for all of a run.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    report: &'a Report,
    #[serde(flatten)]
    context: &'a Context,
}

impl Line<'_> {
    /// One line, without what does not apply.
    fn to_json(&self) -> io::Result<Vec<u8>> {
        let mut value = serde_json::to_value(self)?;
        leave_out_empty(&mut value);
        let mut text = serde_json::to_vec(&value)?;
        text.push(b'\n');
        Ok(text)
    }
}

/// Leaves out fields that are null, false or empty.
fn leave_out_empty(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.retain(|_, field| {
            leave_out_empty(field);
            match field {
                Value::Null | Value::Bool(false) => false,
                Value::String(text) => !text.is_empty(),
                Value::Array(items) => !items.is_empty(),
                _ => true,
            }
        }),
        Value::Array(items) => items.iter_mut().for_each(leave_out_empty),
        _ => {}
    }
}

/// The file of `--findings`.
struct JsonLines {
    file: File,
    path: PathBuf,
    /// It can be written again, and has traces beside it.
    regular: bool,
    /// The names of the traces, by the findings' numbers.
    traces: BTreeMap<u64, String>,
}

/// Takes a run's findings as they come.
pub struct Sink {
    lines: Option<JsonLines>,
    text: Option<Box<dyn Write>>,
    context: Context,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").field("context", &self.context).finish_non_exhaustive()
    }
}

impl Sink {
    /// Makes the file, if there is to be one. The text of the findings goes to `text`.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn new(path: Option<&Path>, text: Option<Box<dyn Write>>, context: Context) -> io::Result<Self> {
        let lines = path.map(JsonLines::create).transpose()?;
        Ok(Self { lines, text, context })
    }

    /// Tells of new findings.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn take(&mut self, new: Vec<Found>) -> io::Result<()> {
        for Found { mut report, trace } in new {
            if let Some(lines) = &mut self.lines {
                report.trace = lines.save_trace(&report, trace.as_deref())?;
                lines.append(&Line { report: &report, context: &self.context })?;
                // For people it is where they are, not where the file is.
                report.trace = report.trace.map(|name| lines.beside(&name).to_string_lossy().into_owned());
            }
            let Some(text) = &mut self.text else { continue };
            let whole = Text(&report, &self.context).to_string();
            match report.id {
                ..=IN_FULL => writeln!(text, "{whole}")?,
                _ => writeln!(text, "{}", whole.lines().next().unwrap_or_default())?,
            }
        }
        Ok(())
    }

    /// Writes the file anew, now that it is known how often each was found.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(&mut self, all: &[Report]) -> io::Result<()> {
        let repeated = all.iter().any(|report| report.count > 1);
        let Some(lines) = self.lines.as_mut().filter(|lines| lines.regular && repeated) else {
            return Ok(());
        };
        let mut text = Vec::new();
        for report in all {
            let trace = lines.traces.get(&report.id).cloned();
            let report = &Report { trace, ..report.clone() };
            text.append(&mut Line { report, context: &self.context }.to_json()?);
        }
        fs::write(&lines.path, text)
    }
}

impl JsonLines {
    fn create(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        let regular = file.metadata()?.is_file();
        Ok(Self { file, path: path.to_owned(), regular, traces: BTreeMap::new() })
    }

    fn append(&mut self, line: &Line<'_>) -> io::Result<()> {
        self.file.write_all(&line.to_json()?)
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.path.with_file_name(name)
    }

    /// Writes a trace to the folder beside the file; returns its path from there. It is named after what is in it: runs
    /// that share a folder do not overwrite one another's, and equal runs have equal names.
    fn save_trace(&mut self, report: &Report, trace: Option<&str>) -> io::Result<Option<String>> {
        let Some(trace) = trace.filter(|_| self.regular) else { return Ok(None) };
        let digest = Sha256::digest(trace);
        let short = hex(digest.get(..6).unwrap_or(&digest));
        let name = format!("{TRACES}/{}-{short}.trace", report.kind.name());
        fs::create_dir_all(self.beside(TRACES))?;
        fs::write(self.beside(&name), trace)?;
        self.traces.insert(report.id, name.clone());
        Ok(Some(name))
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn context() -> Context {
        Context { seed: 7, ready_seed: None, again: "staleline run --seed 7".into() }
    }

    fn found(id: u64, count: u64) -> Found {
        let report = Report { id, count, ..samples::stale_cpu_read() };
        Found { report, trace: Some(format!("# {id}\n")) }
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_finding_is_a_line_and_has_its_trace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.jsonl");
        let text = folder.path().join("text");
        let file = Box::new(File::create(&text).unwrap());
        let mut sink = Sink::new(Some(&path), Some(file), context()).unwrap();
        sink.take(vec![found(1, 1), found(2, 1)]).unwrap();
        let first = lines(&path).remove(0);
        assert_eq!((&first["kind"], &first["verdict"]), (&"stale-cpu-read".into(), &"manifest".into()));
        assert_eq!((&first["blame"], &first["uapi_cannot_sync"]), (&"platform".into(), &true.into()));
        assert_eq!(first["found"], "00");
        assert_eq!((&first["seed"], &first["count"]), (&7.into(), &1.into()));
        assert_eq!(first["victim"]["task"]["pid"], 71);
        let trace = first["trace"].as_str().unwrap();
        assert!(trace.starts_with("traces/stale-cpu-read-"), "{trace}");
        assert_eq!(fs::read_to_string(folder.path().join(trace)).unwrap(), "# 1\n");
        sink.finish(&[found(1, 5).report, found(2, 1).report]).unwrap();
        assert_eq!(lines(&path).iter().map(|line| line["count"].clone()).collect::<Vec<_>>(), [5, 1]);
        assert_eq!(lines(&path)[0]["trace"], trace);
        let text = fs::read_to_string(text).unwrap();
        assert_eq!(text.matches("BUG: staleline").count(), 2);
        assert!(text.contains(&format!("trace      {}", folder.path().join(trace).display())), "{text}");
    }

    #[test]
    fn a_flood_is_told_in_short_after_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("text");
        let mut sink = Sink::new(None, Some(Box::new(File::create(&text).unwrap())), context()).unwrap();
        sink.take((1..=IN_FULL + 5).map(|id| found(id, 1)).collect()).unwrap();
        let text = fs::read_to_string(text).unwrap();
        assert_eq!(text.matches("BUG: staleline").count() as u64, IN_FULL + 5);
        assert_eq!(text.matches("\nagain").count() as u64, IN_FULL);
    }
}
