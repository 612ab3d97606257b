//! 8254 programmable interval timer (ports 0x40-0x43) and the PC's system control port B (0x61), which gates and
//! shows channel 2 (Intel 8254 data sheet; modes 0, 2, 3, 4 and the gate-triggered 1 and 5).

use crate::bus::{Access, AccessError, Nanos, Platform, PlatformDevice};
use crate::state::{State, in_range, same};
use serde::{Deserialize, Serialize};

/// Input frequency, Hz.
pub const PIT_HZ: u64 = 1_193_182;
/// Offset at which the device answers for port 0x61, beyond those of ports 0x40-0x43.
pub const OFFSET_PORT_B: u64 = 4;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

const PORT_B_GATE: u8 = 1 << 0;
const PORT_B_SPEAKER: u8 = 1 << 1;
const PORT_B_REFRESH: u8 = 1 << 4;
const PORT_B_OUTPUT: u8 = 1 << 5;

const EVENT_CHANNEL_0: u32 = 0;

/// How the next data access is split (control word bits 5:4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Access8254 {
    Low,
    High,
    LowThenHigh,
}

/// One counter.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Channel {
    mode: u8,
    bcd: bool,
    access: Access8254,
    /// Reload value, 1-65536.
    reload: u32,
    /// A count has been written completely since the mode was set.
    armed: bool,
    gate: bool,
    /// Input clock tick at which the count was `reload`.
    start: u64,
    /// Count left when the gate stopped it.
    paused: Option<u32>,
    /// First byte of a two-byte write.
    write_low: Option<u8>,
    read_high_next: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl Channel {
    fn new(gate: bool) -> Self {
        Self {
            mode: 3,
            bcd: false,
            access: Access8254::LowThenHigh,
            reload: 0x1_0000,
            armed: false,
            gate,
            start: 0,
            paused: None,
            write_low: None,
            read_high_next: false,
            latched_count: None,
            latched_status: None,
        }
    }

    fn is_periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    /// Ticks since the count was loaded; frozen while the gate is low.
    fn elapsed(&self, tick: u64) -> u64 {
        match self.paused {
            Some(left) => u64::from(self.reload.saturating_sub(left)),
            None => tick.saturating_sub(self.start),
        }
    }

    /// The counter's value as a guest reads it.
    fn count(&self, tick: u64) -> u16 {
        let reload = u64::from(self.reload);
        let elapsed = self.elapsed(tick);
        let left = match self.mode {
            2 => reload - elapsed % reload,
            // Mode 3 counts down by two, twice a period.
            3 => reload - elapsed * 2 % reload,
            // Wraps below zero and goes on.
            _ => reload.wrapping_sub(elapsed) & 0xffff,
        };
        let left = (left & 0xffff) as u16;
        if self.bcd { to_bcd(left) } else { left }
    }

    fn output(&self, tick: u64) -> bool {
        if !self.armed {
            return self.mode != 0;
        }
        let (elapsed, reload) = (self.elapsed(tick), u64::from(self.reload));
        match self.mode {
            0 | 1 => elapsed >= reload,
            2 => elapsed % reload != reload - 1,
            3 => elapsed % reload < reload.div_ceil(2),
            // One low pulse at terminal count.
            _ => elapsed != reload,
        }
    }

    /// Tick of the next rising edge of the output after `tick`.
    fn next_rise(&self, tick: u64) -> Option<u64> {
        if !self.armed || self.paused.is_some() {
            return None;
        }
        let (elapsed, reload) = (self.elapsed(tick), u64::from(self.reload));
        let after = match self.mode {
            0 | 1 => reload,
            2 | 3 => (elapsed / reload).checked_add(1)?.checked_mul(reload)?,
            _ => reload + 1,
        };
        (after > elapsed).then(|| self.start.checked_add(after)).flatten()
    }

    fn set_gate(&mut self, gate: bool, tick: u64) {
        let (was, level_gated) = (self.gate, !matches!(self.mode, 1 | 5));
        self.gate = gate;
        if was == gate {
            return;
        }
        if gate {
            match self.paused.take() {
                // Modes 0 and 4 go on where they stopped.
                Some(left) if matches!(self.mode, 0 | 4) => {
                    self.start = tick.saturating_sub(u64::from(self.reload.saturating_sub(left)));
                }
                // A rising gate restarts every other mode.
                _ => self.start = tick,
            }
        } else if level_gated {
            let passed = self.elapsed(tick);
            let passed = if self.is_periodic() { passed % u64::from(self.reload) } else { passed };
            let left = u64::from(self.reload).saturating_sub(passed);
            self.paused = Some(u32::try_from(left).unwrap_or(0));
        }
    }

    fn load(&mut self, value: u16, tick: u64) {
        let value = if self.bcd { from_bcd(value) } else { u32::from(value) };
        let full = if self.bcd { 10_000 } else { 0x1_0000 };
        // A count of 1 is illegal in modes 2 and 3.
        let value = if self.is_periodic() && value == 1 { 2 } else { value };
        self.reload = if value == 0 { full } else { value };
        self.start = tick;
        self.armed = true;
        self.paused = if self.gate || matches!(self.mode, 1 | 5) { None } else { Some(self.reload) };
    }

    fn write_data(&mut self, byte: u8, tick: u64) {
        match (self.access, self.write_low.take()) {
            (Access8254::Low, _) => self.load(u16::from(byte), tick),
            (Access8254::High, _) => self.load(u16::from(byte) << 8, tick),
            (Access8254::LowThenHigh, None) => self.write_low = Some(byte),
            (Access8254::LowThenHigh, Some(low)) => self.load(u16::from_le_bytes([low, byte]), tick),
        }
    }

    fn read_data(&mut self, tick: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self.latched_count.unwrap_or_else(|| self.count(tick)).to_le_bytes();
        match self.access {
            Access8254::Low => {
                self.latched_count = None;
                low
            }
            Access8254::High => {
                self.latched_count = None;
                high
            }
            Access8254::LowThenHigh if self.read_high_next => {
                self.read_high_next = false;
                self.latched_count = None;
                high
            }
            Access8254::LowThenHigh => {
                self.read_high_next = true;
                low
            }
        }
    }

    fn latch_count(&mut self, tick: u64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.count(tick));
        }
    }

    fn latch_status(&mut self, tick: u64) {
        let access = match self.access {
            Access8254::Low => 1,
            Access8254::High => 2,
            Access8254::LowThenHigh => 3,
        };
        let output = u8::from(self.output(tick)) << 7;
        let null_count = u8::from(!self.armed) << 6;
        self.latched_status
            .get_or_insert(output | null_count | (access << 4) | (self.mode << 1) | u8::from(self.bcd));
    }

    /// A control word that names this channel.
    fn control(&mut self, word: u8, tick: u64) {
        let access = match (word >> 4) & 3 {
            0 => return self.latch_count(tick),
            1 => Access8254::Low,
            2 => Access8254::High,
            _ => Access8254::LowThenHigh,
        };
        // Modes 6 and 7 are 2 and 3.
        let mode = (word >> 1) & 7;
        let mode = if mode > 5 { mode - 4 } else { mode };
        *self = Self { mode, bcd: word & 1 != 0, access, ..Self::new(self.gate) };
        self.start = tick;
    }
}

fn to_bcd(value: u16) -> u16 {
    let value = value % 10_000;
    (value / 1000 * 0x1000) | (value / 100 % 10 * 0x100) | (value / 10 % 10 * 0x10) | (value % 10)
}

fn from_bcd(value: u16) -> u32 {
    let digit = |shift: u32| u32::from((value >> shift) & 0xf).min(9);
    digit(12) * 1000 + digit(8) * 100 + digit(4) * 10 + digit(0)
}

/// Three counters and port B.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pit {
    gsi: u32,
    channels: [Channel; 3],
    speaker: bool,
}

impl Pit {
    /// A timer whose channel 0 drives `gsi` (2: the MADT overrides ISA interrupt 0 to it).
    #[must_use]
    pub fn new(gsi: u32) -> Self {
        Self { gsi, channels: [Channel::new(true), Channel::new(true), Channel::new(false)], speaker: false }
    }

    fn tick(now: Nanos) -> u64 {
        (u128::from(now) * u128::from(PIT_HZ) / NANOS_PER_SECOND) as u64
    }

    fn time_of(tick: u64) -> Nanos {
        let nanos = (u128::from(tick) * NANOS_PER_SECOND).div_ceil(u128::from(PIT_HZ));
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    fn update(&self, platform: &mut dyn Platform) {
        let [channel, ..] = &self.channels;
        let tick = Self::tick(platform.now());
        match channel.next_rise(tick) {
            Some(at) => platform.schedule(Self::time_of(at), EVENT_CHANNEL_0),
            None => platform.cancel(EVENT_CHANNEL_0),
        }
        platform.set_irq(self.gsi, channel.output(tick));
    }

    fn write_control(&mut self, word: u8, tick: u64) {
        let selected = usize::from(word >> 6);
        if let Some(channel) = self.channels.get_mut(selected) {
            return channel.control(word, tick);
        }
        // Read-back: bits 5 and 4 clear select count and status, bits 3:1 the channels.
        for (channel, bit) in self.channels.iter_mut().zip(1..) {
            if word & (1 << bit) != 0 {
                if word & 0x20 == 0 {
                    channel.latch_count(tick);
                }
                if word & 0x10 == 0 {
                    channel.latch_status(tick);
                }
            }
        }
    }

    fn read_port_b(&self, now: Nanos) -> u8 {
        let [_, _, channel] = &self.channels;
        let mut value = if channel.gate { PORT_B_GATE } else { 0 };
        if self.speaker {
            value |= PORT_B_SPEAKER;
        }
        // The refresh toggle changes every 15 us.
        if !(now / 15_085).is_multiple_of(2) {
            value |= PORT_B_REFRESH;
        }
        if channel.output(Self::tick(now)) {
            value |= PORT_B_OUTPUT;
        }
        value
    }
}

impl State for Pit {
    fn accepts(&self, saved: &Self) -> Result<(), &'static str> {
        same(self.gsi == saved.gsi)?;
        in_range(saved.channels.iter().all(|channel| (1..=0x1_0000).contains(&channel.reload)))
    }
}

impl PlatformDevice for Pit {
    fn read(&mut self, offset: u64, data: &mut [u8], platform: &mut dyn Platform) -> Access {
        let [byte] = data else { return Err(AccessError::BadSize) };
        let now = platform.now();
        *byte = match offset {
            OFFSET_PORT_B => self.read_port_b(now),
            // The control register is write-only.
            3 => 0xff,
            _ => {
                let channel = usize::try_from(offset).ok().and_then(|index| self.channels.get_mut(index));
                channel.ok_or(AccessError::NoRegister)?.read_data(Self::tick(now))
            }
        };
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], platform: &mut dyn Platform) -> Access {
        let &[value] = data else { return Err(AccessError::BadSize) };
        let tick = Self::tick(platform.now());
        match offset {
            OFFSET_PORT_B => {
                let [_, _, channel] = &mut self.channels;
                channel.set_gate(value & PORT_B_GATE != 0, tick);
                self.speaker = value & PORT_B_SPEAKER != 0;
            }
            3 => self.write_control(value, tick),
            _ => {
                let channel = usize::try_from(offset).ok().and_then(|index| self.channels.get_mut(index));
                channel.ok_or(AccessError::NoRegister)?.write_data(value, tick);
            }
        }
        self.update(platform);
        Ok(())
    }

    /// A rising edge of channel 0 is due. The line is pulsed, so that an edge-triggered input sees each period even
    /// when nobody looked at the low phase.
    fn event(&mut self, _token: u32, platform: &mut dyn Platform) {
        platform.set_irq(self.gsi, false);
        self.update(platform);
    }

    fn reset(&mut self) {
        *self = Self::new(self.gsi);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestPlatform;

    fn write(pit: &mut Pit, platform: &mut TestPlatform, offset: u64, value: u8) {
        pit.write(offset, &[value], platform).unwrap();
    }

    fn read(pit: &mut Pit, platform: &mut TestPlatform, offset: u64) -> u8 {
        let mut data = [0];
        pit.read(offset, &mut data, platform).unwrap();
        data[0]
    }

    #[test]
    fn periodic_interrupts_keep_their_rate() {
        let (mut pit, mut platform) = (Pit::new(2), TestPlatform::default());
        write(&mut pit, &mut platform, 3, 0x34);
        // 11932 ticks are 100 Hz.
        write(&mut pit, &mut platform, 0, 0x9c);
        assert!(platform.events.is_empty(), "half a count does not start");
        write(&mut pit, &mut platform, 0, 0x2e);
        for period in 1..=1000u64 {
            let at = platform.events.remove(&EVENT_CHANNEL_0).unwrap();
            assert_eq!(at, Pit::time_of(period * 11_932));
            platform.now = at;
            pit.event(EVENT_CHANNEL_0, &mut platform);
            assert!(platform.line(2));
        }
    }

    #[test]
    fn a_one_shot_fires_once() {
        let (mut pit, mut platform) = (Pit::new(2), TestPlatform::default());
        write(&mut pit, &mut platform, 3, 0x30);
        assert!(!platform.line(2), "mode 0 starts low");
        write(&mut pit, &mut platform, 0, 100);
        write(&mut pit, &mut platform, 0, 0);
        platform.now = platform.events[&EVENT_CHANNEL_0];
        pit.event(EVENT_CHANNEL_0, &mut platform);
        assert!(platform.line(2));
        assert!(platform.events.is_empty());
    }

    #[test]
    fn channel_2_calibrates_through_port_b() {
        let (mut pit, mut platform) = (Pit::new(2), TestPlatform::default());
        write(&mut pit, &mut platform, OFFSET_PORT_B, 0);
        write(&mut pit, &mut platform, 3, 0xb0);
        write(&mut pit, &mut platform, 2, 0xff);
        write(&mut pit, &mut platform, 2, 0xff);
        platform.now = 100_000_000;
        assert_eq!(read(&mut pit, &mut platform, OFFSET_PORT_B) & 0x20, 0, "the gate is low");
        write(&mut pit, &mut platform, OFFSET_PORT_B, 1);
        platform.now += 54_900_000;
        assert_eq!(read(&mut pit, &mut platform, OFFSET_PORT_B) & 0x20, 0);
        platform.now += 100_000;
        assert_eq!(read(&mut pit, &mut platform, OFFSET_PORT_B) & 0x21, 0x21);
    }

    #[test]
    fn counts_are_latched_and_read_back() {
        let (mut pit, mut platform) = (Pit::new(2), TestPlatform::default());
        write(&mut pit, &mut platform, 3, 0x34);
        write(&mut pit, &mut platform, 0, 0);
        write(&mut pit, &mut platform, 0, 0x10);
        platform.now = Pit::time_of(0x123);
        write(&mut pit, &mut platform, 3, 0x00);
        platform.now = Pit::time_of(0x800);
        assert_eq!((read(&mut pit, &mut platform, 0), read(&mut pit, &mut platform, 0)), (0xdd, 0x0e));
        write(&mut pit, &mut platform, 3, 0xc2);
        assert_eq!(read(&mut pit, &mut platform, 0), 0xb4, "status: output high, both bytes, mode 2");
        assert_eq!((read(&mut pit, &mut platform, 0), read(&mut pit, &mut platform, 0)), (0x00, 0x08));
    }

    #[test]
    fn counts_in_bcd() {
        let (mut pit, mut platform) = (Pit::new(2), TestPlatform::default());
        write(&mut pit, &mut platform, 3, 0x35);
        write(&mut pit, &mut platform, 0, 0x00);
        write(&mut pit, &mut platform, 0, 0x10);
        platform.now = Pit::time_of(1);
        assert_eq!((read(&mut pit, &mut platform, 0), read(&mut pit, &mut platform, 0)), (0x99, 0x09));
    }
}
