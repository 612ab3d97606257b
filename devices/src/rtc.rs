//! MC146818A real-time clock and CMOS memory at ports 0x70 and 0x71.
//!
//! Time starts at a fixed date and runs with virtual time, so that every run sees the same clock.

use crate::bus::{Access, AccessError, Nanos, Platform, PlatformDevice};

mod calendar;

use crate::state::{State, in_range, same};
use calendar::DateTime;
use serde::{Deserialize, Serialize};

/// Date and time when the machine is switched on: 2025-01-01 00:00:00 UTC, in seconds since 1970.
pub const START_SECONDS: u64 = 1_735_689_600;

const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// How long before an update the "update in progress" bit is set (MC146818A, table 7).
const UPDATE_LEAD: Nanos = 244_000;

const SECONDS: usize = 0x00;
const SECONDS_ALARM: usize = 0x01;
const MINUTES: usize = 0x02;
const MINUTES_ALARM: usize = 0x03;
const HOURS: usize = 0x04;
const HOURS_ALARM: usize = 0x05;
const DAY_OF_WEEK: usize = 0x06;
const DAY: usize = 0x07;
const MONTH: usize = 0x08;
const YEAR: usize = 0x09;
const REGISTER_A: usize = 0x0a;
const REGISTER_B: usize = 0x0b;
const REGISTER_C: usize = 0x0c;
const REGISTER_D: usize = 0x0d;
/// Where PC firmware keeps the century.
const CENTURY: usize = 0x32;

const A_UPDATE_IN_PROGRESS: u8 = 0x80;
/// 32.768 kHz time base, 1024 Hz periodic rate.
const A_RESET: u8 = 0x26;
const B_SET: u8 = 0x80;
const B_PERIODIC: u8 = 0x40;
const B_ALARM: u8 = 0x20;
const B_UPDATE: u8 = 0x10;
const B_BINARY: u8 = 0x04;
const B_24_HOURS: u8 = 0x02;
const C_INTERRUPT: u8 = 0x80;
const D_VALID: u8 = 0x80;
const HOURS_PM: u8 = 0x80;

const EVENT: u32 = 0;

/// Clock and CMOS memory; interrupts on one GSI.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rtc {
    gsi: u32,
    index: u8,
    nmi_masked: bool,
    /// Everything but registers C and D; the time registers hold the time only while SET stops the clock.
    #[serde(with = "crate::state::bytes")]
    cmos: [u8; 128],
    /// The clock showed `base_seconds` at virtual time `base`.
    base_seconds: u64,
    base: Nanos,
    /// Interrupt flags of register C.
    flags: u8,
    /// Up to when flags have been brought up to date.
    seen: Nanos,
}

impl Rtc {
    /// A clock that interrupts on `gsi` (8) in a machine with this much RAM below and above 4 GiB, in bytes.
    #[must_use]
    pub fn new(gsi: u32, ram_below_4g: u64, ram_above_4g: u64) -> Self {
        let mut rtc = Self {
            gsi,
            index: 0,
            nmi_masked: false,
            cmos: [0; 128],
            base_seconds: START_SECONDS,
            base: 0,
            flags: 0,
            seen: 0,
        };
        rtc.cmos[REGISTER_A] = A_RESET;
        rtc.cmos[REGISTER_B] = B_24_HOURS;
        let mut put = |at: usize, value: u64, bytes: usize| {
            for (slot, byte) in rtc.cmos.iter_mut().skip(at).take(bytes).zip(value.to_le_bytes()) {
                *slot = byte;
            }
        };
        let above_1m = ram_below_4g.saturating_sub(1 << 20);
        let above_16m = ram_below_4g.saturating_sub(16 << 20);
        put(0x15, 640, 2);
        put(0x17, (above_1m >> 10).min(0xfc00), 2);
        put(0x30, (above_1m >> 10).min(0xfc00), 2);
        put(0x34, (above_16m >> 16).min(0xffff), 2);
        put(0x5b, (ram_above_4g >> 16).min(0xff_ffff), 3);
        let sum = rtc.cmos.iter().take(0x2e).skip(0x10).map(|&byte| u16::from(byte)).sum::<u16>();
        [rtc.cmos[0x2e], rtc.cmos[0x2f]] = sum.to_be_bytes();
        rtc
    }

    /// Bit 7 of port 0x70: the board's NMI does not reach the processor.
    #[must_use]
    pub fn nmi_masked(&self) -> bool {
        self.nmi_masked
    }

    fn is_set(&self, bit: u8) -> bool {
        self.cmos[REGISTER_B] & bit != 0
    }

    /// Seconds since 1970 that the clock shows.
    fn seconds(&self, now: Nanos) -> u64 {
        self.base_seconds.saturating_add(now.saturating_sub(self.base) / NANOS_PER_SECOND)
    }

    /// Virtual time at which the clock shows `seconds`.
    fn time_of(&self, seconds: u64) -> Nanos {
        let ahead = seconds.saturating_sub(self.base_seconds).saturating_mul(NANOS_PER_SECOND);
        self.base.saturating_add(ahead)
    }

    fn encode(&self, value: u8) -> u8 {
        if self.is_set(B_BINARY) { value } else { (value / 10 * 16) | (value % 10) }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.is_set(B_BINARY) { value } else { (value >> 4).wrapping_mul(10).wrapping_add(value & 0xf) }
    }

    fn encode_hours(&self, hours: u8) -> u8 {
        if self.is_set(B_24_HOURS) {
            return self.encode(hours);
        }
        let twelve = (hours + 11) % 12 + 1;
        self.encode(twelve) | if hours >= 12 { HOURS_PM } else { 0 }
    }

    fn decode_hours(&self, value: u8) -> u8 {
        if self.is_set(B_24_HOURS) {
            return self.decode(value);
        }
        let afternoon = if value & HOURS_PM != 0 { 12 } else { 0 };
        self.decode(value & !HOURS_PM) % 12 + afternoon
    }

    /// Puts the time into its registers.
    fn store_time(&mut self, seconds: u64) {
        let time = DateTime::from_seconds(seconds);
        self.cmos[SECONDS] = self.encode(time.second);
        self.cmos[MINUTES] = self.encode(time.minute);
        self.cmos[HOURS] = self.encode_hours(time.hour);
        self.cmos[DAY_OF_WEEK] = self.encode(time.weekday + 1);
        self.cmos[DAY] = self.encode(time.day);
        self.cmos[MONTH] = self.encode(time.month);
        self.cmos[YEAR] = self.encode((time.year % 100) as u8);
        self.cmos[CENTURY] = self.encode((time.year / 100 % 100) as u8);
    }

    /// Takes the time from its registers; nonsense is brought into range.
    fn load_time(&mut self, now: Nanos) {
        let field = |at: usize| self.decode(self.cmos[at]);
        let time = DateTime {
            year: u32::from(field(CENTURY)) * 100 + u32::from(field(YEAR)),
            month: field(MONTH),
            day: field(DAY),
            hour: self.decode_hours(self.cmos[HOURS]),
            minute: field(MINUTES),
            second: field(SECONDS),
            weekday: 0,
        };
        self.base_seconds = time.to_seconds();
        self.base = now;
    }

    /// Nanoseconds between periodic interrupts, if any (MC146818A, table 5).
    fn period(&self) -> Option<Nanos> {
        let rate = u32::from(self.cmos[REGISTER_A] & 0x0f);
        let divided = match rate {
            0 => return None,
            1 | 2 => rate + 6,
            _ => rate - 1,
        };
        // 2^divided cycles of 32.768 kHz.
        Some((NANOS_PER_SECOND << divided) / 32_768)
    }

    /// When the clock first shows the alarm time after `seconds`.
    fn next_alarm(&self, seconds: u64) -> Option<u64> {
        let alarm = |at: usize, decoded: u8| if self.cmos[at] >= 0xc0 { None } else { Some(decoded) };
        let second = alarm(SECONDS_ALARM, self.decode(self.cmos[SECONDS_ALARM]));
        let minute = alarm(MINUTES_ALARM, self.decode(self.cmos[MINUTES_ALARM]));
        let hour = alarm(HOURS_ALARM, self.decode_hours(self.cmos[HOURS_ALARM]));
        calendar::next_match(seconds, hour, minute, second)
    }

    /// Sets the flags of everything that happened since the last call.
    fn catch_up(&mut self, now: Nanos) {
        let since = self.seen;
        self.seen = now.max(since);
        if let Some(period) = self.period()
            && now / period > since / period
        {
            self.flags |= B_PERIODIC;
        }
        if self.is_set(B_SET) {
            return;
        }
        let (from, to) = (self.seconds(since), self.seconds(now));
        if to > from {
            self.flags |= B_UPDATE;
            if self.next_alarm(from).is_some_and(|at| at <= to) {
                self.flags |= B_ALARM;
            }
        }
    }

    /// Drives the line and asks for the next event that would interrupt.
    fn update(&mut self, platform: &mut dyn Platform) {
        let now = platform.now();
        self.catch_up(now);
        let enabled = self.cmos[REGISTER_B] & (B_PERIODIC | B_ALARM | B_UPDATE);
        platform.set_irq(self.gsi, self.flags & enabled != 0);

        // A flag that is already set cannot interrupt again before register C is read.
        let waiting = enabled & !self.flags;
        let seconds = self.seconds(now);
        let running = !self.is_set(B_SET);
        let periodic = self.period().filter(|_| waiting & B_PERIODIC != 0);
        let candidates = [
            periodic.map(|period| (now / period).saturating_add(1).saturating_mul(period)),
            (waiting & B_UPDATE != 0 && running).then(|| self.time_of(seconds.saturating_add(1))),
            self.next_alarm(seconds).filter(|_| waiting & B_ALARM != 0 && running).map(|at| self.time_of(at)),
        ];
        match candidates.into_iter().flatten().min() {
            Some(at) => platform.schedule(at, EVENT),
            None => platform.cancel(EVENT),
        }
    }

    fn read_cmos(&mut self, index: usize, now: Nanos) -> u8 {
        match index {
            REGISTER_A => {
                let to_update = NANOS_PER_SECOND - now.saturating_sub(self.base) % NANOS_PER_SECOND;
                let updating = !self.is_set(B_SET) && to_update <= UPDATE_LEAD;
                self.cmos[REGISTER_A] | if updating { A_UPDATE_IN_PROGRESS } else { 0 }
            }
            REGISTER_C => {
                let flags = std::mem::take(&mut self.flags);
                let enabled = self.cmos[REGISTER_B] & (B_PERIODIC | B_ALARM | B_UPDATE);
                flags | if flags & enabled != 0 { C_INTERRUPT } else { 0 }
            }
            REGISTER_D => D_VALID,
            SECONDS | MINUTES | HOURS | DAY_OF_WEEK..=YEAR | CENTURY => {
                if !self.is_set(B_SET) {
                    self.store_time(self.seconds(now));
                }
                self.cmos[index & 0x7f]
            }
            _ => self.cmos[index & 0x7f],
        }
    }

    fn write_cmos(&mut self, index: usize, value: u8, now: Nanos) {
        match index {
            REGISTER_A => self.cmos[REGISTER_A] = value & !A_UPDATE_IN_PROGRESS,
            REGISTER_B => {
                let was_set = self.is_set(B_SET);
                if !was_set {
                    self.store_time(self.seconds(now));
                }
                // SET clears the update interrupt enable (MC146818A, register B).
                let value = if value & B_SET != 0 { value & !B_UPDATE } else { value };
                let format_changed = (self.cmos[REGISTER_B] ^ value) & (B_BINARY | B_24_HOURS) != 0;
                self.cmos[REGISTER_B] = value;
                if was_set && value & B_SET == 0 {
                    self.load_time(now);
                } else if !was_set && format_changed {
                    self.store_time(self.seconds(now));
                }
            }
            REGISTER_C | REGISTER_D => {}
            SECONDS | MINUTES | HOURS | DAY_OF_WEEK..=YEAR | CENTURY => {
                if self.is_set(B_SET) {
                    self.cmos[index & 0x7f] = value;
                } else {
                    self.store_time(self.seconds(now));
                    self.cmos[index & 0x7f] = value;
                    self.load_time(now);
                }
            }
            _ => self.cmos[index & 0x7f] = value,
        }
    }
}

impl State for Rtc {
    fn accepts(&self, saved: &Self) -> Result<(), &'static str> {
        same(self.gsi == saved.gsi)?;
        in_range(usize::from(saved.index) < self.cmos.len())
    }
}

impl PlatformDevice for Rtc {
    fn read(&mut self, offset: u64, data: &mut [u8], platform: &mut dyn Platform) -> Access {
        let [byte] = data else { return Err(AccessError::BadSize) };
        *byte = match offset {
            // The index port is write-only.
            0 => 0xff,
            1 => {
                self.catch_up(platform.now());
                self.read_cmos(usize::from(self.index), platform.now())
            }
            _ => return Err(AccessError::NoRegister),
        };
        self.update(platform);
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], platform: &mut dyn Platform) -> Access {
        let &[value] = data else { return Err(AccessError::BadSize) };
        match offset {
            0 => {
                self.index = value & 0x7f;
                self.nmi_masked = value & 0x80 != 0;
            }
            1 => {
                self.catch_up(platform.now());
                self.write_cmos(usize::from(self.index), value, platform.now());
                self.update(platform);
            }
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }

    fn event(&mut self, _token: u32, platform: &mut dyn Platform) {
        self.update(platform);
    }

    /// Clock and CMOS memory are battery-backed: a reset clears interrupt enables and flags (MC146818A, RESET pin).
    fn reset(&mut self) {
        self.cmos[REGISTER_B] &= !(B_PERIODIC | B_ALARM | B_UPDATE);
        self.flags = 0;
        self.index = 0;
        self.nmi_masked = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestPlatform;

    const SECOND: u64 = NANOS_PER_SECOND;

    fn clock() -> (Rtc, TestPlatform) {
        (Rtc::new(8, 3 << 30, 1 << 30), TestPlatform::default())
    }

    fn read(rtc: &mut Rtc, platform: &mut TestPlatform, index: u8) -> u8 {
        let mut data = [0];
        rtc.write(0, &[index], platform).unwrap();
        rtc.read(1, &mut data, platform).unwrap();
        data[0]
    }

    fn write(rtc: &mut Rtc, platform: &mut TestPlatform, index: u8, value: u8) {
        rtc.write(0, &[index], platform).unwrap();
        rtc.write(1, &[value], platform).unwrap();
    }

    fn time(rtc: &mut Rtc, platform: &mut TestPlatform) -> [u8; 7] {
        [0x32, 9, 8, 7, 4, 2, 0].map(|index| read(rtc, platform, index))
    }

    #[test]
    fn starts_at_the_fixed_date_and_follows_virtual_time() {
        let (mut rtc, mut platform) = clock();
        assert_eq!(time(&mut rtc, &mut platform), [0x20, 0x25, 1, 1, 0, 0, 0]);
        assert_eq!(read(&mut rtc, &mut platform, 6), 4, "a Wednesday");
        platform.now = (31 * 86_400 + 13 * 3600 + 59 * 60 + 58) * SECOND;
        assert_eq!(time(&mut rtc, &mut platform), [0x20, 0x25, 2, 1, 0x13, 0x59, 0x58]);
        write(&mut rtc, &mut platform, 0x0b, B_BINARY);
        assert_eq!(time(&mut rtc, &mut platform), [20, 25, 2, 1, 0x81, 59, 58], "binary, 1 PM");
    }

    #[test]
    fn update_in_progress_precedes_the_second() {
        let (mut rtc, mut platform) = clock();
        assert_eq!(read(&mut rtc, &mut platform, 0x0a), 0x26);
        platform.now = SECOND - UPDATE_LEAD;
        assert_eq!(read(&mut rtc, &mut platform, 0x0a), 0xa6);
        platform.now = SECOND;
        assert_eq!(read(&mut rtc, &mut platform, 0x0a), 0x26);
        assert_eq!(read(&mut rtc, &mut platform, 0x0d), 0x80);
    }

    #[test]
    fn the_guest_sets_the_time() {
        let (mut rtc, mut platform) = clock();
        platform.now = 10 * SECOND + 500;
        write(&mut rtc, &mut platform, 0x0b, B_SET | B_24_HOURS);
        for (index, value) in [(9, 0x99), (0x32, 0x19), (8, 0x12), (7, 0x31), (4, 0x23), (2, 0x59), (0, 0x59)]
        {
            write(&mut rtc, &mut platform, index, value);
        }
        platform.now = 20 * SECOND;
        assert_eq!(time(&mut rtc, &mut platform), [0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59], "stopped");
        write(&mut rtc, &mut platform, 0x0b, B_24_HOURS);
        platform.now = 21 * SECOND;
        assert_eq!(time(&mut rtc, &mut platform), [0x20, 0, 1, 1, 0, 0, 0]);
    }

    #[test]
    fn update_and_periodic_interrupts_fire_and_clear() {
        let (mut rtc, mut platform) = clock();
        write(&mut rtc, &mut platform, 0x0b, B_24_HOURS | B_UPDATE);
        assert_eq!(platform.events[&EVENT], SECOND);
        platform.now = SECOND;
        rtc.event(EVENT, &mut platform);
        assert!(platform.line(8));
        assert!(platform.events.is_empty(), "no further event before register C is read");
        assert_eq!(read(&mut rtc, &mut platform, 0x0c), C_INTERRUPT | B_UPDATE | B_PERIODIC);
        assert!(!platform.line(8));
        assert_eq!(platform.events[&EVENT], 2 * SECOND);
        write(&mut rtc, &mut platform, 0x0b, B_24_HOURS | B_PERIODIC);
        assert_eq!(platform.events[&EVENT], 1025 * 976_562, "32 cycles of 32.768 kHz");
        platform.now = 1_001_000_000;
        rtc.event(EVENT, &mut platform);
        assert!(platform.line(8));
    }

    #[test]
    fn alarms_match_with_wildcards() {
        let (mut rtc, mut platform) = clock();
        for (index, value) in [(5, 0xff), (3, 0x02), (1, 0x30)] {
            write(&mut rtc, &mut platform, index, value);
        }
        write(&mut rtc, &mut platform, 0x0b, B_24_HOURS | B_ALARM);
        assert_eq!(platform.events[&EVENT], 150 * SECOND);
        platform.now = 150 * SECOND;
        rtc.event(EVENT, &mut platform);
        assert!(platform.line(8));
        assert_eq!(read(&mut rtc, &mut platform, 0x0c) & B_ALARM, B_ALARM);
        assert_eq!(platform.events[&EVENT], (3600 + 150) * SECOND);
        write(&mut rtc, &mut platform, 1, 0x75);
        assert!(platform.events.is_empty(), "an impossible alarm never comes");
    }

    #[test]
    fn cmos_tells_the_memory_sizes_and_masks_nmi() {
        let (mut rtc, mut platform) = clock();
        let mut word = |at| {
            u16::from(read(&mut rtc, &mut platform, at))
                | (u16::from(read(&mut rtc, &mut platform, at + 1)) << 8)
        };
        assert_eq!((word(0x15), word(0x17), word(0x30)), (640, 0xfc00, 0xfc00));
        assert_eq!((word(0x34), word(0x5b)), (0xbf00, 0x4000));
        assert!(!rtc.nmi_masked());
        rtc.write(0, &[0x8f], &mut platform).unwrap();
        assert!(rtc.nmi_masked());
    }
}
