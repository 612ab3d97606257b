//! The pair of 8259A interrupt controllers, with the edge/level control registers of PCI chipsets.

use crate::state::{State, in_range, same};
use serde::{Deserialize, Serialize};

/// One 8259A.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Pic {
    is_slave: bool,
    irr: u8,
    imr: u8,
    isr: u8,
    lines: u8,
    /// ELCR: inputs that are level-triggered.
    level: u8,
    /// Input with the highest priority.
    first: u8,
    vector_base: u8,
    read_isr: bool,
    poll: bool,
    special_mask: bool,
    special_fully_nested: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    /// The initialisation word expected next at the odd port, 0 when initialised.
    expected_icw: u8,
    wants_icw4: bool,
    single: bool,
}

impl Pic {
    fn new(is_slave: bool) -> Self {
        Self {
            is_slave,
            irr: 0,
            imr: 0xff,
            isr: 0,
            lines: 0,
            level: 0,
            first: 0,
            vector_base: 0,
            read_isr: false,
            poll: false,
            special_mask: false,
            special_fully_nested: false,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            expected_icw: 0,
            wants_icw4: false,
            single: false,
        }
    }

    /// Rank of the most urgent bit, 0 the highest; 8 for none.
    fn rank(&self, bits: u8) -> u32 {
        if bits == 0 { 8 } else { bits.rotate_right(u32::from(self.first)).trailing_zeros() }
    }

    /// The input to serve next.
    fn request(&self) -> Option<u8> {
        let waiting = self.irr & !self.imr;
        let rank = self.rank(waiting);
        if rank == 8 {
            return None;
        }
        let mut in_service = self.isr;
        if self.special_mask {
            in_service &= !self.imr;
        }
        if self.special_fully_nested && !self.is_slave {
            in_service &= !(1 << CASCADE);
        }
        (rank < self.rank(in_service)).then(|| (rank as u8 + self.first) & 7)
    }

    fn set_line(&mut self, input: u8, high: bool) {
        let bit = 1 << (input & 7);
        if self.level & bit != 0 {
            self.irr = if high { self.irr | bit } else { self.irr & !bit };
        } else if high && self.lines & bit == 0 {
            self.irr |= bit;
        }
        self.lines = if high { self.lines | bit } else { self.lines & !bit };
    }

    fn acknowledge(&mut self, input: u8) {
        let bit = 1 << (input & 7);
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.first = (input + 1) & 7;
            }
        } else {
            self.isr |= bit;
        }
        if self.level & bit == 0 {
            self.irr &= !bit;
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            // ICW1 clears the mask, the in-service bits and the edge detectors.
            let fresh = Self::new(self.is_slave);
            let level_requests = self.lines & self.level;
            *self = Self {
                imr: 0,
                irr: level_requests,
                lines: self.lines,
                level: self.level,
                expected_icw: 2,
                wants_icw4: value & 1 != 0,
                single: value & 2 != 0,
                ..fresh
            };
        } else if value & 0x08 != 0 {
            if value & 0x04 != 0 {
                self.poll = true;
            }
            if value & 0x02 != 0 {
                self.read_isr = value & 1 != 0;
            }
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
        } else {
            self.write_ocw2(value);
        }
    }

    fn write_ocw2(&mut self, value: u8) {
        let named = value & 7;
        match value >> 5 {
            0 | 4 => self.rotate_on_auto_eoi = value >> 5 == 4,
            command @ (1 | 5) => {
                let rank = self.rank(self.isr);
                if rank < 8 {
                    let input = (rank as u8 + self.first) & 7;
                    self.isr &= !(1 << input);
                    if command == 5 {
                        self.first = (input + 1) & 7;
                    }
                }
            }
            command @ (3 | 7) => {
                self.isr &= !(1 << named);
                if command == 7 {
                    self.first = (named + 1) & 7;
                }
            }
            6 => self.first = (named + 1) & 7,
            _ => {}
        }
    }

    fn write_data(&mut self, value: u8) {
        match self.expected_icw {
            2 => {
                self.vector_base = value & 0xf8;
                self.expected_icw = match (self.single, self.wants_icw4) {
                    (false, _) => 3,
                    (true, true) => 4,
                    (true, false) => 0,
                };
            }
            // The cascade is wired at input 2 whatever ICW3 says.
            3 => self.expected_icw = if self.wants_icw4 { 4 } else { 0 },
            4 => {
                self.special_fully_nested = value & 0x10 != 0;
                self.auto_eoi = value & 0x02 != 0;
                self.expected_icw = 0;
            }
            _ => self.imr = value,
        }
    }

    fn read_command(&self) -> u8 {
        if self.read_isr { self.isr } else { self.irr }
    }
}

/// Master input that the slave drives.
const CASCADE: u8 = 2;

/// Inputs whose trigger mode the ELCR can change, master and slave.
const ELCR_WRITABLE: [u8; 2] = [0xf8, 0xde];

/// Master and slave, cascaded at input 2.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PicPair {
    master: Pic,
    slave: Pic,
}

impl Default for PicPair {
    fn default() -> Self {
        Self { master: Pic::new(false), slave: Pic::new(true) }
    }
}

impl State for PicPair {
    fn accepts(&self, saved: &Self) -> Result<(), &'static str> {
        let pairs = [(&self.master, &saved.master), (&self.slave, &saved.slave)];
        same(pairs.iter().all(|(pic, saved)| pic.is_slave == saved.is_slave))?;
        in_range(pairs.iter().all(|(_, saved)| saved.first < 8))
    }
}

impl PicPair {
    /// Power-on reset. Lines keep the level their devices drive.
    pub fn reset(&mut self) {
        let (master, slave) = (self.master.lines, self.slave.lines);
        *self = Self::default();
        self.master.lines = master;
        self.slave.lines = slave;
    }

    /// Drives input `irq` (0-15; 2 is the cascade and ignored).
    pub fn set_line(&mut self, irq: u8, high: bool) {
        match irq {
            CASCADE | 16.. => return,
            0..=7 => self.master.set_line(irq, high),
            8..=15 => self.slave.set_line(irq - 8, high),
        }
        self.cascade();
    }

    /// The INT output of the master.
    #[must_use]
    #[inline]
    pub fn output(&self) -> bool {
        self.master.request().is_some()
    }

    /// The vector that [`Self::acknowledge`] would return.
    #[must_use]
    pub fn pending_vector(&self) -> Option<u8> {
        let input = self.master.request()?;
        Some(if input == CASCADE {
            self.slave.vector_base | self.slave.request().unwrap_or(7)
        } else {
            self.master.vector_base | input
        })
    }

    /// The processor's interrupt acknowledge cycle: returns the vector, the spurious one (input 7) if the request
    /// is gone.
    pub fn acknowledge(&mut self) -> u8 {
        let vector = match self.master.request() {
            Some(CASCADE) => {
                self.master.acknowledge(CASCADE);
                let input = self.slave.request();
                if let Some(input) = input {
                    self.slave.acknowledge(input);
                }
                self.slave.vector_base | input.unwrap_or(7)
            }
            Some(input) => {
                self.master.acknowledge(input);
                self.master.vector_base | input
            }
            None => self.master.vector_base | 7,
        };
        self.cascade();
        vector
    }

    /// Reads a command (`data` false) or data port of the master or slave.
    pub fn read(&mut self, slave: bool, data: bool) -> u8 {
        let pic = if slave { &mut self.slave } else { &mut self.master };
        let value = if std::mem::take(&mut pic.poll) {
            match pic.request() {
                Some(input) => {
                    pic.acknowledge(input);
                    0x80 | input
                }
                None => 0,
            }
        } else if data {
            pic.imr
        } else {
            pic.read_command()
        };
        self.cascade();
        value
    }

    /// Writes a command (`data` false) or data port of the master or slave.
    pub fn write(&mut self, slave: bool, data: bool, value: u8) {
        let pic = if slave { &mut self.slave } else { &mut self.master };
        if data {
            pic.write_data(value);
        } else {
            pic.write_command(value);
        }
        self.cascade();
    }

    /// Reads ELCR1 (master) or ELCR2 (slave).
    #[must_use]
    pub fn read_elcr(&self, slave: bool) -> u8 {
        if slave { self.slave.level } else { self.master.level }
    }

    /// Writes ELCR1 (master) or ELCR2 (slave).
    pub fn write_elcr(&mut self, slave: bool, value: u8) {
        let pic = if slave { &mut self.slave } else { &mut self.master };
        pic.level = value & ELCR_WRITABLE[usize::from(slave)];
        pic.irr = (pic.irr & !pic.level) | (pic.lines & pic.level);
        self.cascade();
    }

    fn cascade(&mut self) {
        // The slave's output falls while it is being served and rises for its next request: a level in effect.
        let bit = 1 << CASCADE;
        let output = self.slave.request().is_some();
        self.master.irr = if output { self.master.irr | bit } else { self.master.irr & !bit };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linux_setup() -> PicPair {
        let mut pic = PicPair::default();
        for (slave, base, icw3) in [(false, 0x30, 4), (true, 0x38, 2)] {
            pic.write(slave, false, 0x11);
            pic.write(slave, true, base);
            pic.write(slave, true, icw3);
            pic.write(slave, true, 0x01);
            pic.write(slave, true, 0);
        }
        pic
    }

    #[test]
    fn the_mask_reads_back_as_the_probe_expects() {
        let mut pic = PicPair::default();
        pic.write(true, true, 0xff);
        pic.write(false, true, 0xfb);
        assert_eq!(pic.read(false, true), 0xfb);
    }

    #[test]
    fn priorities_and_eoi() {
        let mut pic = linux_setup();
        pic.set_line(4, true);
        pic.set_line(1, true);
        assert_eq!(pic.acknowledge(), 0x31);
        assert!(!pic.output(), "4 waits for 1");
        pic.set_line(0, true);
        assert_eq!(pic.acknowledge(), 0x30, "0 nests");
        pic.write(false, false, 0x20);
        pic.write(false, false, 0x61);
        assert_eq!(pic.acknowledge(), 0x34);
        pic.write(false, false, 0x0b);
        assert_eq!(pic.read(false, false), 1 << 4, "ISR");
        pic.write(false, false, 0x0a);
        assert_eq!(pic.read(false, false), 0, "IRR");
    }

    #[test]
    fn slave_requests_pass_the_cascade() {
        let mut pic = linux_setup();
        pic.set_line(8, true);
        pic.set_line(12, true);
        assert_eq!(pic.pending_vector(), Some(0x38));
        assert_eq!(pic.acknowledge(), 0x38);
        assert!(!pic.output());
        pic.write(true, false, 0x20);
        pic.write(false, false, 0x20);
        assert_eq!(pic.acknowledge(), 0x3c);
    }

    #[test]
    fn a_lost_request_is_spurious() {
        let mut pic = linux_setup();
        pic.write_elcr(false, 0xff);
        assert_eq!(pic.read_elcr(false), 0xf8);
        pic.set_line(5, true);
        pic.set_line(5, false);
        assert_eq!(pic.acknowledge(), 0x37);
        pic.write(false, false, 0x0b);
        assert_eq!(pic.read(false, false), 0, "a spurious interrupt is not in service");
    }

    #[test]
    fn level_inputs_stay_requested() {
        let mut pic = linux_setup();
        pic.write_elcr(true, 1 << 2);
        pic.set_line(10, true);
        assert_eq!(pic.acknowledge(), 0x3a);
        pic.write(true, false, 0x20);
        pic.write(false, false, 0x20);
        assert_eq!(pic.acknowledge(), 0x3a);
        pic.set_line(10, false);
        pic.write(true, false, 0x20);
        pic.write(false, false, 0x20);
        assert!(!pic.output());
    }

    #[test]
    fn automatic_eoi_rotates_on_request() {
        let mut pic = linux_setup();
        pic.write(false, false, 0x11);
        pic.write(false, true, 0x30);
        pic.write(false, true, 4);
        pic.write(false, true, 3);
        pic.write(false, false, 0x80);
        pic.set_line(3, true);
        assert_eq!(pic.acknowledge(), 0x33);
        pic.set_line(1, true);
        pic.set_line(4, true);
        assert_eq!(pic.acknowledge(), 0x34, "after 3 was served, 4 comes first");
        assert_eq!(pic.acknowledge(), 0x31);
    }

    #[test]
    fn poll_acknowledges() {
        let mut pic = linux_setup();
        pic.set_line(6, true);
        pic.write(false, false, 0x0c);
        assert_eq!(pic.read(false, false), 0x86);
        pic.write(false, false, 0x0c);
        assert_eq!(pic.read(false, false), 0);
    }
}
