//! The terminal in raw mode while a guest has it, restored on every way out.

use std::io::{self, IsTerminal};
use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};

/// Settings to go back to; kept globally for ways out that run no destructors.
static SAVED: Mutex<Option<libc::termios>> = Mutex::new(None);

/// Standard input is a terminal in raw mode as long as this lives.
#[derive(Debug)]
pub(super) struct RawMode(());

impl RawMode {
    /// Switches to raw mode; `None` if standard input is no terminal.
    pub(super) fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let fd = stdin.as_raw_fd();
        // SAFETY: neither call has memory operands.
        if unsafe { libc::tcgetpgrp(fd) != libc::getpgrp() } {
            log::info!("running in the background: the terminal is left alone");
            return Ok(None);
        }
        // SAFETY: `termios` is plain data, for which all zeroes is a valid value.
        let mut settings: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open and `settings` is valid for writing.
        if unsafe { libc::tcgetattr(fd, &raw mut settings) } < 0 {
            return Err(io::Error::last_os_error());
        }
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(settings);
        let output = settings.c_oflag;
        // SAFETY: `settings` is valid for reading and writing.
        unsafe { libc::cfmakeraw(&raw mut settings) };
        // Log lines go to the same terminal: keep its line feeds.
        settings.c_oflag = output;
        // SAFETY: the descriptor is open and `settings` is valid.
        if unsafe { libc::tcsetattr(fd, libc::TCSANOW, &raw const settings) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back as it was found.
pub fn restore() {
    if let Some(settings) = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // SAFETY: descriptor 0 was a terminal when the settings were read; `settings` is valid.
        unsafe { libc::tcsetattr(0, libc::TCSANOW, &raw const settings) };
    }
}
