//! A 16550A UART on a PC's serial port (National Semiconductor PC16550D data sheet).
//!
//! The line is infinitely fast: a byte written is sent at once, and a byte waiting on the host's side is received
//! when the guest looks for one. So a FIFO reset loses no host input, and no baud rate slows a boot down.

use crate::bus::{Access, AccessError, Platform, PlatformDevice};
use crate::state::{State, in_range, same};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Most bytes of host input that wait for the guest.
pub const INPUT_LIMIT: usize = 64 * 1024;
/// Most bytes of guest output that wait to be drained.
pub const OUTPUT_LIMIT: usize = 1024 * 1024;

const FIFO_DEPTH: usize = 16;

const IER_RECEIVED: u8 = 1 << 0;
const IER_THR_EMPTY: u8 = 1 << 1;
const IER_LINE_STATUS: u8 = 1 << 2;
const IER_MODEM_STATUS: u8 = 1 << 3;

const IIR_NONE: u8 = 0x01;
const IIR_LINE_STATUS: u8 = 0x06;
const IIR_RECEIVED: u8 = 0x04;
const IIR_TIMEOUT: u8 = 0x0c;
const IIR_THR_EMPTY: u8 = 0x02;
const IIR_MODEM_STATUS: u8 = 0x00;
const IIR_FIFOS_ENABLED: u8 = 0xc0;

const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RECEIVER: u8 = 1 << 1;

const LCR_DIVISOR_LATCH: u8 = 1 << 7;

const MCR_DTR: u8 = 1 << 0;
const MCR_RTS: u8 = 1 << 1;
const MCR_OUT1: u8 = 1 << 2;
const MCR_OUT2: u8 = 1 << 3;
const MCR_LOOPBACK: u8 = 1 << 4;

const LSR_DATA_READY: u8 = 1 << 0;
const LSR_OVERRUN: u8 = 1 << 1;
const LSR_THR_EMPTY: u8 = 1 << 5;
const LSR_TRANSMITTER_EMPTY: u8 = 1 << 6;

const MSR_CTS: u8 = 1 << 4;
const MSR_DSR: u8 = 1 << 5;
const MSR_RI: u8 = 1 << 6;
const MSR_DCD: u8 = 1 << 7;

/// A serial port: eight registers, one interrupt line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Serial {
    gsi: u32,
    divisor: u16,
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scratch: u8,
    overrun: bool,
    /// The transmitter-empty interrupt is due.
    thr_interrupt: bool,
    /// Modem status lines as last read, for the delta bits.
    modem_seen: u8,
    modem_delta: u8,
    /// Receiver FIFO of loopback mode.
    loopback: VecDeque<u8>,
    input: VecDeque<u8>,
    output: Vec<u8>,
    output_lost: u64,
}

impl Serial {
    /// A port that interrupts on `gsi` (4 for the first PC port, 3 for the second).
    #[must_use]
    pub fn new(gsi: u32) -> Self {
        Self {
            gsi,
            divisor: 12,
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            scratch: 0,
            overrun: false,
            thr_interrupt: false,
            modem_seen: MSR_CTS | MSR_DSR | MSR_DCD,
            modem_delta: 0,
            loopback: VecDeque::new(),
            input: VecDeque::new(),
            output: Vec::new(),
            output_lost: 0,
        }
    }

    /// Queues host input; returns how many bytes were taken (the queue holds [`INPUT_LIMIT`]).
    pub fn enqueue_input(&mut self, bytes: &[u8], platform: &mut dyn Platform) -> usize {
        let taken = bytes.len().min(self.input_room());
        self.input.extend(bytes.iter().take(taken));
        self.update_interrupt(platform);
        taken
    }

    /// The guest asserts RTS: a driver has the port open and loses nothing that is sent to it from now on.
    #[must_use]
    pub fn requests_to_send(&self) -> bool {
        self.mcr & MCR_RTS != 0 && !self.is_loopback()
    }

    /// How many bytes [`Self::enqueue_input`] would take.
    #[must_use]
    pub fn input_room(&self) -> usize {
        INPUT_LIMIT.saturating_sub(self.input.len())
    }

    /// What the guest has sent since the last call. Drain after every quantum: what exceeds [`OUTPUT_LIMIT`] is lost.
    #[must_use]
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Whether [`Self::take_output`] has something to give.
    #[must_use]
    #[inline]
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Bytes lost because nobody drained the output.
    #[must_use]
    pub fn output_lost(&self) -> u64 {
        self.output_lost
    }

    fn is_loopback(&self) -> bool {
        self.mcr & MCR_LOOPBACK != 0
    }

    fn fifos_enabled(&self) -> bool {
        self.fcr & FCR_ENABLE != 0
    }

    /// Bytes the guest can read now, at most the FIFO's depth.
    fn received(&self) -> usize {
        let waiting = if self.is_loopback() { self.loopback.len() } else { self.input.len() };
        waiting.min(if self.fifos_enabled() { FIFO_DEPTH } else { 1 })
    }

    fn trigger_level(&self) -> usize {
        match (self.fifos_enabled(), self.fcr >> 6) {
            (false, _) | (true, 0) => 1,
            (true, 1) => 4,
            (true, 2) => 8,
            (true, _) => 14,
        }
    }

    fn modem_lines(&self) -> u8 {
        if !self.is_loopback() {
            return MSR_CTS | MSR_DSR | MSR_DCD;
        }
        [(MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RI), (MCR_OUT2, MSR_DCD)]
            .into_iter()
            .filter(|(control, _)| self.mcr & control != 0)
            .fold(0, |lines, (_, status)| lines | status)
    }

    /// The most urgent enabled interrupt.
    fn interrupt_identity(&self) -> u8 {
        let enabled = |bit| self.ier & bit != 0;
        let received = self.received();
        if enabled(IER_LINE_STATUS) && self.overrun {
            IIR_LINE_STATUS
        } else if enabled(IER_RECEIVED) && received >= self.trigger_level() {
            IIR_RECEIVED
        } else if enabled(IER_RECEIVED) && received > 0 {
            IIR_TIMEOUT
        } else if enabled(IER_THR_EMPTY) && self.thr_interrupt {
            IIR_THR_EMPTY
        } else if enabled(IER_MODEM_STATUS) && self.modem_delta != 0 {
            IIR_MODEM_STATUS
        } else {
            IIR_NONE
        }
    }

    fn update_interrupt(&self, platform: &mut dyn Platform) {
        // On a PC, OUT2 gates the interrupt line; loopback disconnects it from its pin.
        let connected = self.mcr & MCR_OUT2 != 0 && !self.is_loopback();
        platform.set_irq(self.gsi, connected && self.interrupt_identity() != IIR_NONE);
    }

    fn update_modem(&mut self) {
        let lines = self.modem_lines();
        let changed = lines ^ self.modem_seen;
        // Delta bits are the line bits shifted by four; ring reports its trailing edge only.
        let ring_ended = self.modem_seen & !lines & MSR_RI;
        self.modem_delta |= ((changed & !MSR_RI) | ring_ended) >> 4;
        self.modem_seen = lines;
    }

    fn transmit(&mut self, byte: u8) {
        if self.is_loopback() {
            let depth = if self.fifos_enabled() { FIFO_DEPTH } else { 1 };
            if self.loopback.len() < depth {
                self.loopback.push_back(byte);
            } else {
                self.overrun = true;
            }
        } else if self.output.len() < OUTPUT_LIMIT {
            self.output.push(byte);
        } else {
            self.output_lost = self.output_lost.saturating_add(1);
        }
        self.thr_interrupt = true;
    }

    fn read_register(&mut self, register: u64) -> u8 {
        let latch = self.lcr & LCR_DIVISOR_LATCH != 0;
        match register {
            0 if latch => self.divisor as u8,
            1 if latch => (self.divisor >> 8) as u8,
            0 => {
                let queue = if self.is_loopback() { &mut self.loopback } else { &mut self.input };
                queue.pop_front().unwrap_or(0)
            }
            1 => self.ier,
            2 => {
                let identity = self.interrupt_identity();
                if identity == IIR_THR_EMPTY {
                    self.thr_interrupt = false;
                }
                identity | if self.fifos_enabled() { IIR_FIFOS_ENABLED } else { 0 }
            }
            3 => self.lcr,
            4 => self.mcr,
            5 => {
                let ready = if self.received() > 0 { LSR_DATA_READY } else { 0 };
                let overrun = if std::mem::take(&mut self.overrun) { LSR_OVERRUN } else { 0 };
                LSR_THR_EMPTY | LSR_TRANSMITTER_EMPTY | ready | overrun
            }
            6 => self.modem_lines() | std::mem::take(&mut self.modem_delta),
            _ => self.scratch,
        }
    }

    fn write_register(&mut self, register: u64, value: u8) {
        let latch = self.lcr & LCR_DIVISOR_LATCH != 0;
        match register {
            0 if latch => self.divisor = (self.divisor & 0xff00) | u16::from(value),
            1 if latch => self.divisor = (self.divisor & 0x00ff) | (u16::from(value) << 8),
            0 => self.transmit(value),
            1 => {
                // Enabling the transmitter interrupt while the register is empty raises it at once; drivers test
                // the chip by that.
                if value & IER_THR_EMPTY != 0 && self.ier & IER_THR_EMPTY == 0 {
                    self.thr_interrupt = true;
                }
                self.ier = value & 0x0f;
            }
            2 => {
                let toggled = (value ^ self.fcr) & FCR_ENABLE != 0;
                if toggled || value & FCR_CLEAR_RECEIVER != 0 {
                    self.loopback.clear();
                }
                self.fcr = if value & FCR_ENABLE != 0 { value & 0xc9 } else { 0 };
            }
            3 => self.lcr = value,
            4 => {
                self.mcr = value & 0x1f;
                self.update_modem();
            }
            // Line and modem status are read-only.
            5 | 6 => {}
            _ => self.scratch = value,
        }
    }
}

impl State for Serial {
    fn accepts(&self, saved: &Self) -> Result<(), &'static str> {
        same(self.gsi == saved.gsi)?;
        in_range(
            saved.input.len() <= INPUT_LIMIT
                && saved.loopback.len() <= FIFO_DEPTH
                && saved.output.len() <= OUTPUT_LIMIT,
        )
    }
}

impl PlatformDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8], platform: &mut dyn Platform) -> Access {
        let [byte] = data else { return Err(AccessError::BadSize) };
        if offset > 7 {
            return Err(AccessError::NoRegister);
        }
        *byte = self.read_register(offset);
        self.update_interrupt(platform);
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], platform: &mut dyn Platform) -> Access {
        let &[value] = data else { return Err(AccessError::BadSize) };
        if offset > 7 {
            return Err(AccessError::NoRegister);
        }
        self.write_register(offset, value);
        self.update_interrupt(platform);
        Ok(())
    }

    /// Output already sent and host input still waiting are on the line, not in the chip: they stay.
    fn reset(&mut self) {
        *self = Self {
            input: std::mem::take(&mut self.input),
            output: std::mem::take(&mut self.output),
            output_lost: self.output_lost,
            ..Self::new(self.gsi)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestPlatform;

    fn port() -> (Serial, TestPlatform) {
        (Serial::new(4), TestPlatform::default())
    }

    fn read(serial: &mut Serial, platform: &mut TestPlatform, register: u64) -> u8 {
        let mut data = [0];
        serial.read(register, &mut data, platform).unwrap();
        data[0]
    }

    fn write(serial: &mut Serial, platform: &mut TestPlatform, register: u64, value: u8) {
        serial.write(register, &[value], platform).unwrap();
    }

    #[test]
    fn linux_detects_a_16550a() {
        let (mut serial, mut platform) = port();
        let (s, p) = (&mut serial, &mut platform);
        write(s, p, 1, 0);
        assert_eq!(read(s, p, 1), 0);
        write(s, p, 1, 0x0f);
        assert_eq!(read(s, p, 1), 0x0f);
        write(s, p, 1, 0);
        write(s, p, 4, 0x1a);
        assert_eq!(read(s, p, 6) & 0xf0, 0x90, "loopback: DCD and CTS");
        write(s, p, 4, 0);
        write(s, p, 2, 1);
        assert_eq!(read(s, p, 2) >> 6, 3, "FIFOs work");
        write(s, p, 3, 0x80);
        assert_ne!(read(s, p, 2), 0, "no extended feature register");
        write(s, p, 3, 0);
        write(s, p, 2, 0x21);
        assert_eq!(read(s, p, 2) >> 5, 6, "no 64-byte FIFO");
        write(s, p, 1, 0x40);
        assert_eq!(read(s, p, 1), 0, "no XScale unit enable");
        write(s, p, 7, 0x5a);
        assert_eq!(read(s, p, 7), 0x5a);
    }

    #[test]
    fn the_transmitter_interrupt_is_raised_again_by_each_enable() {
        let (mut serial, mut platform) = port();
        let (s, p) = (&mut serial, &mut platform);
        write(s, p, 4, 0x0b);
        for _ in 0..2 {
            write(s, p, 1, 2);
            assert!(p.line(4));
            assert_eq!(read(s, p, 2), 0x02);
            assert_eq!(read(s, p, 2), 0x01, "reading the identity clears it");
            assert!(!p.line(4));
            write(s, p, 1, 0);
        }
        write(s, p, 1, 2);
        read(s, p, 2);
        write(s, p, 0, b'x');
        assert!(p.line(4));
        write(s, p, 4, 0x03);
        assert!(!p.line(4), "OUT2 gates the line");
        assert_eq!(s.take_output(), b"x");
    }

    #[test]
    fn input_triggers_at_the_level_and_times_out_below() {
        let (mut serial, mut platform) = port();
        let (s, p) = (&mut serial, &mut platform);
        write(s, p, 4, 0x0b);
        write(s, p, 2, 0x81);
        write(s, p, 1, 1);
        assert_eq!(s.enqueue_input(b"ninebytes", p), 9);
        assert_eq!(read(s, p, 2), 0xc4);
        let mut text = Vec::new();
        while read(s, p, 5) & 1 != 0 {
            text.push(read(s, p, 0));
            if text.len() == 2 {
                assert_eq!(read(s, p, 2), 0xcc);
                write(s, p, 2, 0x87);
            }
        }
        assert_eq!(text, b"ninebytes", "a FIFO reset loses no host input");
        assert!(!p.line(4));
    }

    #[test]
    fn queues_are_bounded() {
        let (mut serial, mut platform) = port();
        let (s, p) = (&mut serial, &mut platform);
        assert_eq!(s.enqueue_input(&vec![0; INPUT_LIMIT + 5], p), INPUT_LIMIT);
        assert_eq!(s.input_room(), 0);
        for _ in 0..OUTPUT_LIMIT + 3 {
            write(s, p, 0, 0);
        }
        assert_eq!((s.take_output().len(), s.output_lost()), (OUTPUT_LIMIT, 3));
    }

    #[test]
    fn loopback_returns_bytes_and_overruns() {
        let (mut serial, mut platform) = port();
        let (s, p) = (&mut serial, &mut platform);
        write(s, p, 2, 1);
        write(s, p, 4, 0x10);
        for byte in 0..17 {
            write(s, p, 0, byte);
        }
        write(s, p, 1, 4);
        assert_eq!(read(s, p, 2), 0xc6);
        assert_eq!(read(s, p, 5) & 3, 3);
        assert_eq!(read(s, p, 5) & 3, 1, "reading clears the overrun");
        assert_eq!((0..16).map(|_| read(s, p, 0)).collect::<Vec<_>>(), (0..16).collect::<Vec<_>>());
        assert!(!s.has_output());
    }

    #[test]
    fn accesses_wider_than_a_byte_are_refused() {
        let (mut serial, mut platform) = port();
        assert_eq!(serial.read(0, &mut [0; 2], &mut platform), Err(AccessError::BadSize));
        assert_eq!(serial.write(8, &[0], &mut platform), Err(AccessError::NoRegister));
    }

    #[test]
    fn the_divisor_latch_hides_data_and_enables() {
        let (mut serial, mut platform) = port();
        let (s, p) = (&mut serial, &mut platform);
        write(s, p, 3, 0x83);
        write(s, p, 0, 1);
        write(s, p, 1, 0);
        assert_eq!((read(s, p, 0), read(s, p, 1)), (1, 0));
        write(s, p, 3, 3);
        assert!(!s.has_output());
    }
}
