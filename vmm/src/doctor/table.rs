//! The report as text.

use super::{Item, Report, Status};
use std::io::{self, IsTerminal, Write};

/// How text is laid out.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    pub colours: bool,
    /// Columns after which lines are wrapped.
    pub width: usize,
}

impl Style {
    /// For programs: each finding on one line, no colours.
    pub const PLAIN: Self = Self { colours: false, width: usize::MAX };
}

/// Columns of a terminal; most have at least these.
const TERMINAL_WIDTH: usize = 100;
const INDENT: usize = 2;
/// The longest status.
const STATUS_WIDTH: usize = 7;

/// Prints to standard output, with colours if that is a terminal and `NO_COLOR` is not set.
///
/// # Errors
/// Standard output cannot be written.
pub fn print_to_stdout(report: &Report) -> io::Result<()> {
    let stdout = io::stdout();
    let style = match stdout.is_terminal() {
        true => Style {
            colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            width: TERMINAL_WIDTH,
        },
        false => Style::PLAIN,
    };
    print(report, &mut stdout.lock(), style)
}

/// Prints a table: a section for each subject, then the verdicts.
///
/// # Errors
/// Those of `out`.
pub fn print(report: &Report, out: &mut dyn Write, style: Style) -> io::Result<()> {
    let items = report.sections.iter().flat_map(|section| &section.items);
    let what_width = items.map(|item| item.what.chars().count()).max().unwrap_or(0);
    for section in &report.sections {
        writeln!(out, "{}", section.title)?;
        for item in &section.items {
            print_item(item, what_width, out, style)?;
        }
        writeln!(out)?;
    }
    let verdicts = [
        ("run", report.can_run, "a kernel that you bring"),
        ("build", report.can_build, "the guest images"),
        ("repro", report.can_repro, "the known bugs, end to end"),
    ];
    for (what, can, of) in verdicts {
        let answer = if can { "yes" } else { "no" };
        writeln!(
            out,
            "{what:<5}  {}  {of}",
            painted(answer, 3, if can { Status::Ok } else { Status::Missing }, style)
        )?;
    }
    Ok(())
}

fn print_item(item: &Item, what_width: usize, out: &mut dyn Write, style: Style) -> io::Result<()> {
    let status = match item.status {
        Status::Ok => "ok",
        Status::Warn => "warn",
        Status::Missing => "missing",
    };
    let indent = INDENT + STATUS_WIDTH + 2 + what_width + 2;
    let status = painted(status, STATUS_WIDTH, item.status, style);
    write!(out, "{:INDENT$}{status}  {:<what_width$}  ", "", item.what)?;
    let mut lines = wrapped(&item.finding, style.width.saturating_sub(indent));
    if let Some(advice) = &item.advice {
        lines.extend(wrapped(&format!("-> {advice}"), style.width.saturating_sub(indent)));
    }
    for (number, line) in lines.iter().enumerate() {
        let indent = if number == 0 { 0 } else { indent };
        writeln!(out, "{:indent$}{line}", "")?;
    }
    Ok(())
}

/// Padded first: colours take no columns.
fn painted(text: &str, width: usize, status: Status, style: Style) -> String {
    let padded = format!("{text:<width$}");
    // SGR: green, yellow, red.
    let colour = match status {
        Status::Ok => 32,
        Status::Warn => 33,
        Status::Missing => 31,
    };
    if style.colours { format!("\x1b[{colour}m{padded}\x1b[0m") } else { padded }
}

/// At least one line; words longer than `width` stay whole. Control characters, which programs' versions and files' names
/// may hold, become spaces.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        let Some(line) = lines.last_mut() else { break };
        let length = line.chars().count();
        if length == 0 {
            line.push_str(word);
        } else if length.saturating_add(1).saturating_add(word.chars().count()) <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::Section;
    use super::*;

    fn report() -> Report {
        let items = vec![
            Item::ok("soft", "yes"),
            Item::warn("a longer name", "one two three four five\x1b[31m").advise("do this"),
            Item::missing("cc", "not found"),
        ];
        let sections = vec![Section { title: "engines".into(), items }];
        Report { sections, can_run: true, can_build: false, can_repro: false }
    }

    fn text(style: Style) -> String {
        let mut out = Vec::new();
        print(&report(), &mut out, style).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_are_aligned_and_plain_text_has_no_escapes() {
        let expected = "\
engines
  ok       soft           yes
  warn     a longer name  one two three four five [31m
                          -> do this
  missing  cc             not found

run    yes  a kernel that you bring
build  no   the guest images
repro  no   the known bugs, end to end
";
        assert_eq!(text(Style::PLAIN), expected);
    }

    #[test]
    fn long_lines_wrap_under_their_column() {
        let text = text(Style { colours: false, width: 40 });
        assert!(text.contains("  one two three\n                          four five"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
    }

    #[test]
    fn colours_do_not_change_the_columns() {
        let coloured = text(Style { colours: true, ..Style::PLAIN });
        assert!(coloured.contains("\x1b[32mok     \x1b[0m  soft"));
        let mut bare = coloured;
        for colour in ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"] {
            bare = bare.replace(colour, "");
        }
        assert_eq!(bare, text(Style::PLAIN));
    }
}
