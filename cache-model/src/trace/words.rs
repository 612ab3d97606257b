//! The words of a line of a trace.

use memchr::memchr;

use super::View;
use super::digits;
use super::parse::ParseError;
use crate::access::{MemoryType, Snoop};
use crate::ledger::Direction;

/// The rest of the text, of which the words of the first line are read. Numbers and data are read without looking for the
/// word's end first; what ends in something else than a word ends with is looked at again, for the message.
pub struct Words<'a> {
    pub rest: &'a [u8],
}

impl<'a> Words<'a> {
    /// The next word; none at the line's end or its comment.
    #[inline]
    pub fn next(&mut self) -> Option<&'a [u8]> {
        self.skip_blanks();
        let rest = self.rest;
        let len = rest.iter().position(|&byte| ends_word(byte)).unwrap_or(rest.len());
        let (word, rest) = rest.split_at(len);
        self.rest = rest;
        if word.is_empty() { None } else { Some(word) }
    }

    #[inline]
    fn word(&mut self, what: &'static str) -> Result<&'a [u8], ParseError> {
        self.next().ok_or(ParseError::Missing(what))
    }

    #[inline]
    fn skip_blanks(&mut self) {
        while let [byte, rest @ ..] = self.rest
            && byte.is_ascii_whitespace()
            && *byte != b'\n'
        {
            self.rest = rest;
        }
    }

    /// What follows the line.
    #[inline]
    pub fn end_of_line(&mut self) -> Result<&'a [u8], ParseError> {
        self.skip_blanks();
        match self.rest {
            [] => Ok(self.rest),
            [b'\n', next @ ..] => Ok(next),
            [b'#', comment @ ..] => {
                let end = memchr(b'\n', comment);
                Ok(end.and_then(|end| comment.get(end + 1..)).unwrap_or_default())
            }
            _ => Err(ParseError::Trailing(shortened(self.word("")?))),
        }
    }

    /// Goes on after the next `len` bytes, if a word ends there.
    #[inline]
    fn advance(&mut self, len: usize) -> bool {
        let Some((_, rest)) = self.rest.split_at_checked(len) else { return false };
        let ends = rest.first().is_none_or(|&byte| ends_word(byte));
        if ends {
            self.rest = rest;
        }
        ends
    }

    #[inline]
    pub fn number(&mut self, what: &'static str) -> Result<u64, ParseError> {
        self.skip_blanks();
        // Most CPUs, devices and lengths have one digit.
        if let [digit @ b'0'..=b'9', rest @ ..] = self.rest
            && rest.first().is_some_and(|&end| ends_word(end))
        {
            self.rest = rest;
            return Ok(u64::from(digit - b'0'));
        }
        match self.take_number() {
            Some(value) => Ok(value),
            None => Err(number_error(what, self.word(what)?)),
        }
    }

    /// The number that stands next, if all of the word is one that fits.
    #[inline(never)]
    fn take_number(&mut self) -> Option<u64> {
        let (value, len) = match self.rest {
            [b'0', b'x' | b'X', digits @ ..] => {
                let (value, len) = digits::hexadecimal(digits)?;
                (value, len + 2)
            }
            digits => digits::decimal(digits)?,
        };
        self.advance(len).then_some(value)
    }

    #[inline]
    pub fn small(&mut self, what: &'static str) -> Result<u32, ParseError> {
        let value = self.number(what)?;
        u32::try_from(value).map_err(|_| ParseError::TooLarge { what, text: value.to_string() })
    }

    #[inline]
    pub fn length(&mut self) -> Result<u64, ParseError> {
        match self.number("LEN")? {
            0 => Err(ParseError::Empty),
            len => Ok(len),
        }
    }

    #[inline]
    pub fn data<'d>(&mut self, buffer: &'d mut Vec<u8>) -> Result<&'d [u8], ParseError> {
        self.skip_blanks();
        digits::pairs(self.rest, buffer);
        if !buffer.is_empty() && self.advance(buffer.len() * 2) {
            return Ok(buffer);
        }
        Err(ParseError::Hex(shortened(self.word("HEX")?)))
    }

    pub fn part(&mut self) -> Result<Option<(u64, u64)>, ParseError> {
        self.skip_blanks();
        if self.rest.first().is_none_or(|&byte| ends_word(byte)) {
            return Ok(None);
        }
        Ok(Some((self.number("OFF")?, self.length()?)))
    }

    #[inline]
    pub fn memory_type(&mut self) -> Result<MemoryType, ParseError> {
        Ok(match self.next() {
            None | Some(b"wb") => MemoryType::WriteBack,
            Some(b"wt") => MemoryType::WriteThrough,
            Some(b"wc") => MemoryType::WriteCombining,
            Some(b"uc") => MemoryType::Uncached,
            Some(b"nt") => MemoryType::NonTemporal,
            Some(text) => return Err(choice("TYPE", "wb, wt, wc, uc, nt", text)),
        })
    }

    pub fn snoop(&mut self) -> Result<Snoop, ParseError> {
        match self.word("snoop or nosnoop")? {
            b"snoop" => Ok(Snoop::Snoop),
            b"nosnoop" => Ok(Snoop::NoSnoop),
            text => Err(choice("the attribute", "snoop, nosnoop", text)),
        }
    }

    pub fn direction(&mut self) -> Result<Direction, ParseError> {
        match self.word("the direction")? {
            b"to" => Ok(Direction::ToDevice),
            b"from" => Ok(Direction::FromDevice),
            b"bidi" => Ok(Direction::Bidirectional),
            b"coherent" => Ok(Direction::Coherent),
            text => Err(choice("the direction", "to, from, bidi, coherent", text)),
        }
    }

    pub fn view(&mut self) -> Result<View, ParseError> {
        match self.word("cpu or ram")? {
            b"cpu" => Ok(View::Cpu),
            b"ram" => Ok(View::Ram),
            text => Err(choice("the view", "cpu, ram", text)),
        }
    }
}

/// A number that is all of a word.
pub fn number(what: &'static str, text: &[u8]) -> Result<u64, ParseError> {
    let mut words = Words { rest: text };
    match words.number(what) {
        Err(ParseError::Missing(_)) => Err(number_error(what, text)),
        result => result,
    }
}

/// Why a word is no number.
#[cold]
fn number_error(what: &'static str, text: &[u8]) -> ParseError {
    let digits = match text {
        [b'0', b'x' | b'X', digits @ ..] if !digits.is_empty() => digits.iter().all(u8::is_ascii_hexdigit),
        digits => !digits.is_empty() && digits.iter().all(u8::is_ascii_digit),
    };
    let text = shortened(text);
    if digits { ParseError::TooLarge { what, text } } else { ParseError::Number { what, text } }
}

#[inline]
pub fn ends_word(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == b'#'
}

#[cold]
pub fn choice(what: &'static str, choices: &'static str, text: &[u8]) -> ParseError {
    ParseError::Choice { what, choices, text: shortened(text) }
}

/// Bad data can be long, and anything; a message need not be.
#[cold]
pub fn shortened(text: &[u8]) -> String {
    const LIMIT: usize = 40;
    let mut short = String::from_utf8_lossy(text.get(..LIMIT).unwrap_or(text)).into_owned();
    if text.len() > LIMIT {
        short.push('…');
    }
    short
}
