//! The kernel command line.

use super::place::COMMAND_LINE_SIZE;

/// What Linux needs to use its console, if no command line is given.
pub const DEFAULT: &str = "console=ttyS0";
/// Has the kernel start our init from the initial RAM file system.
pub const OUR_INIT: &str = "rdinit=/staleline/init";

/// A command line the kernel would not get as it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandLineError {
    #[error("the kernel command line has {length} bytes; this kernel takes {limit}")]
    TooLong { length: usize, limit: usize },
    #[error("the kernel command line has a character that is not printable ASCII: {0:?}")]
    BadCharacter(char),
}

/// Checks that `line` reaches a kernel whole that takes `limit` bytes (terminator not counted).
///
/// # Errors
/// [`CommandLineError`] if it is too long or has other characters than printable ASCII and tabs.
pub fn check(line: &str, limit: u32) -> Result<(), CommandLineError> {
    let limit = u64::from(limit).min(COMMAND_LINE_SIZE - 1) as usize;
    if line.len() > limit {
        return Err(CommandLineError::TooLong { length: line.len(), limit });
    }
    match line.chars().find(|c| !(' '..='~').contains(c) && *c != '\t') {
        Some(bad) => Err(CommandLineError::BadCharacter(bad)),
        None => Ok(()),
    }
}

/// Appends `words` to `line` with a space between. Parameters after `--` are init's, so they go before that.
#[must_use]
pub fn append(line: &str, words: &str) -> String {
    let line = line.trim();
    let at = if line.starts_with("-- ") || line == "--" { Some(0) } else { line.find(" -- ") };
    match at {
        Some(at) => {
            let (kernel, init) = line.split_at(at);
            format!("{kernel} {words} {}", init.trim_start()).trim_start().to_owned()
        }
        None if line.is_empty() => words.to_owned(),
        None => format!("{line} {words}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_checked() {
        assert_eq!(check("console=ttyS0", 13), Ok(()));
        assert_eq!(check("console=ttyS0", 12), Err(CommandLineError::TooLong { length: 13, limit: 12 }));
        assert_eq!(check("a\nb", 100), Err(CommandLineError::BadCharacter('\n')));
        assert_eq!(check("dyndbg=\"file mr.c +p\"\tquiet", 100), Ok(()));
        assert!(check(&"x".repeat(0x1_0000), u32::MAX).is_err());
    }

    #[test]
    fn words_go_before_the_arguments_of_init() {
        assert_eq!(append("", "a=1"), "a=1");
        assert_eq!(append(" quiet ", "a=1"), "quiet a=1");
        assert_eq!(append("quiet -- s", "a=1"), "quiet a=1 -- s");
        assert_eq!(append("-- s", "a=1"), "a=1 -- s");
    }
}
