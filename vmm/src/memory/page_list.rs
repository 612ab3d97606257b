//! The pages that a run has shown to a cache with scope=dma, in a file for the next one: `--cache scope=dma,pages=FILE`. With all
//! of them shown from power-on there are no lines of unknown past.
//!
//! One page a line by its address, in decimal or hexadecimal (0x); `#` begins a comment.

use super::layout::PAGE;
use crate::quantity::parse_number;
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

/// A list of pages cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PageListError {
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}:{line}: {reason}", .path.display())]
    Line { path: PathBuf, line: usize, reason: String },
}

/// Reads addresses of pages that `is_ram` says are RAM.
///
/// # Errors
/// The file's name, with the line and what is wrong with it.
pub fn read(path: &Path, is_ram: impl Fn(u64) -> bool) -> Result<Vec<u64>, PageListError> {
    let io = |source| PageListError::Io { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(io)?;
    let mut pages = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let word = line.split('#').next().unwrap_or_default().trim();
        if word.is_empty() {
            continue;
        }
        let page = address(word).and_then(|page| match is_ram(page) {
            true => Ok(page),
            false => Err(format!("{page:#x} is not in this machine's RAM")),
        });
        let bad = |reason| PageListError::Line { path: path.to_owned(), line: index + 1, reason };
        pages.push(page.map_err(bad)?);
    }
    Ok(pages)
}

fn address(word: &str) -> Result<u64, String> {
    match parse_number(word) {
        Some(page) if page.is_multiple_of(PAGE) => Ok(page),
        Some(page) => Err(format!("{page:#x} is not the address of a page: a page has {PAGE} bytes")),
        None => Err(format!("'{word}' is no address: one page a line, as 0x1000")),
    }
}

/// Writes addresses of pages.
///
/// # Errors
/// The file's name, with the host's reason.
pub fn write(path: &Path, pages: impl Iterator<Item = u64>) -> Result<(), PageListError> {
    let mut text = String::from("# Pages that devices have reached: --cache scope=dma,pages=FILE\n");
    for page in pages {
        // Text takes whatever it is given.
        let _ = writeln!(text, "{page:#x}");
    }
    std::fs::write(path, text).map_err(|source| PageListError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pages");
        write(&file, [0x1000, 0x1234_5000].into_iter()).unwrap();
        assert_eq!(read(&file, |_| true).unwrap(), [0x1000, 0x1234_5000]);
    }

    #[test]
    fn what_is_wrong_has_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pages");
        for (text, line, reason) in [
            ("# pages\n0x1000\n\n4097\n", 4, "0x1001 is not the address of a page: a page has 4096 bytes"),
            ("0x1000 0x2000\n", 1, "'0x1000 0x2000' is no address: one page a line, as 0x1000"),
            ("4096 # decimal\n0xfff000\n", 2, "0xfff000 is not in this machine's RAM"),
            ("-1", 1, "'-1' is no address"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = read(&file, |page| page < 0x10_0000).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{}:{line}: {reason}", file.display())), "{error}");
        }
        let missing = read(&folder.path().join("none"), |_| true).unwrap_err().to_string();
        assert!(missing.contains("none: No such file"), "{missing}");
    }
}
