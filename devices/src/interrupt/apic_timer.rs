//! The local APIC's timer in virtual time (SDM 3A, 11.5.4).

use crate::bus::Nanos;
use serde::{Deserialize, Serialize};

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// Frequencies that drive an APIC timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApicClock {
    /// Time-stamp counter, Hz. 1 GHz makes one tick one nanosecond of virtual time.
    pub tsc_hz: u64,
    /// Timer input before the divider (the core crystal clock of CPUID leaf 0x15), Hz.
    pub timer_hz: u64,
}

impl Default for ApicClock {
    fn default() -> Self {
        Self { tsc_hz: 1_000_000_000, timer_hz: 25_000_000 }
    }
}

/// Timer mode, LVT timer bits 18:17.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum TimerMode {
    OneShot,
    Periodic,
    TscDeadline,
    Reserved,
}

impl TimerMode {
    pub(super) fn from_lvt(lvt: u32) -> Self {
        match (lvt >> 17) & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::Reserved,
        }
    }
}

/// Counter and deadline. Whether an expiry interrupts is the LVT's business.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ApicTimer {
    clock: ApicClock,
    /// Guest TSC minus the machine's (a guest may write IA32_TSC or IA32_TSC_ADJUST).
    tsc_offset: u64,
    mode: TimerMode,
    divide_config: u32,
    initial: u32,
    /// Ticks left at `since`; 0 is stopped.
    count: u32,
    since: Nanos,
    /// IA32_TSC_DEADLINE; 0 is disarmed.
    tsc_deadline: u64,
    expiry: Option<Nanos>,
}

fn mul_div_ceil(value: u64, numerator: u128, denominator: u128) -> u64 {
    let product = u128::from(value).saturating_mul(numerator);
    u64::try_from(product.div_ceil(denominator.max(1))).unwrap_or(u64::MAX)
}

impl ApicTimer {
    pub(super) fn new(clock: ApicClock) -> Self {
        Self {
            clock,
            tsc_offset: 0,
            mode: TimerMode::OneShot,
            divide_config: 0,
            initial: 0,
            count: 0,
            since: 0,
            tsc_deadline: 0,
            expiry: None,
        }
    }

    /// Back to the state after reset; frequencies and the TSC offset belong to the processor and stay.
    pub(super) fn reset(&mut self) {
        *self = Self { tsc_offset: self.tsc_offset, ..Self::new(self.clock) };
    }

    /// Frequencies.
    pub(super) fn clock(&self) -> ApicClock {
        self.clock
    }

    /// Virtual time of the next expiry.
    #[inline]
    pub(super) fn expiry(&self) -> Option<Nanos> {
        self.expiry
    }

    pub(super) fn initial(&self) -> u32 {
        self.initial
    }

    pub(super) fn divide_config(&self) -> u32 {
        self.divide_config
    }

    /// Current count, rounded up so that it reaches zero exactly at the expiry.
    pub(super) fn current(&self, now: Nanos) -> u32 {
        if self.mode == TimerMode::TscDeadline {
            return 0;
        }
        let elapsed = u128::from(now.saturating_sub(self.since)) * u128::from(self.clock.timer_hz)
            / (NANOS_PER_SECOND * self.divisor());
        u32::try_from(u128::from(self.count).saturating_sub(elapsed)).unwrap_or(0)
    }

    /// IA32_TSC_DEADLINE; reads zero outside TSC-deadline mode and after the expiry.
    pub(super) fn tsc_deadline(&self) -> u64 {
        self.tsc_deadline
    }

    pub(super) fn set_initial(&mut self, initial: u32, now: Nanos) {
        self.initial = initial;
        if matches!(self.mode, TimerMode::OneShot | TimerMode::Periodic) {
            self.count = initial;
            self.since = now;
            self.rearm(now);
        }
    }

    pub(super) fn set_divide_config(&mut self, value: u32, now: Nanos) {
        self.count = self.current(now);
        self.since = now;
        self.divide_config = value & 0xb;
        self.rearm(now);
    }

    pub(super) fn set_mode(&mut self, mode: TimerMode, now: Nanos) {
        if mode == self.mode {
            return;
        }
        let was_counting = matches!(self.mode, TimerMode::OneShot | TimerMode::Periodic);
        let counts = matches!(mode, TimerMode::OneShot | TimerMode::Periodic);
        if was_counting && counts {
            self.count = self.current(now);
            self.since = now;
        } else {
            self.count = 0;
            self.tsc_deadline = 0;
        }
        self.mode = mode;
        self.rearm(now);
    }

    /// A write to IA32_TSC_DEADLINE; ignored outside TSC-deadline mode.
    pub(super) fn set_tsc_deadline(&mut self, deadline: u64, now: Nanos) {
        if self.mode == TimerMode::TscDeadline {
            self.tsc_deadline = deadline;
            self.rearm(now);
        }
    }

    pub(super) fn set_tsc_offset(&mut self, offset: u64, now: Nanos) {
        self.tsc_offset = offset;
        self.rearm(now);
    }

    /// Whether the timer expired at or before `now`. Missed periods count once.
    pub(super) fn expire(&mut self, now: Nanos) -> bool {
        let Some(expiry) = self.expiry.filter(|&at| at <= now) else { return false };
        match self.mode {
            TimerMode::Periodic => {
                let period = self.period(self.initial);
                let missed = now.saturating_sub(expiry) / period;
                self.since = expiry.saturating_add(missed.saturating_mul(period));
                self.count = self.initial;
            }
            TimerMode::OneShot | TimerMode::Reserved => self.count = 0,
            TimerMode::TscDeadline => self.tsc_deadline = 0,
        }
        self.rearm(now);
        true
    }

    fn tsc(&self, now: Nanos) -> u64 {
        let ticks = if u128::from(self.clock.tsc_hz) == NANOS_PER_SECOND {
            now
        } else {
            // The counter is 64 bits wide and wraps.
            (u128::from(now) * u128::from(self.clock.tsc_hz) / NANOS_PER_SECOND) as u64
        };
        ticks.wrapping_add(self.tsc_offset)
    }

    fn divisor(&self) -> u128 {
        // Bits 3, 1, 0: 000 is 2, 110 is 128, 111 is 1.
        let code = ((self.divide_config >> 1) & 4) | (self.divide_config & 3);
        if code == 7 { 1 } else { 2 << code }
    }

    fn period(&self, count: u32) -> Nanos {
        let nanos = mul_div_ceil(
            u64::from(count),
            NANOS_PER_SECOND * self.divisor(),
            u128::from(self.clock.timer_hz),
        );
        nanos.max(1)
    }

    fn rearm(&mut self, now: Nanos) {
        self.expiry = match self.mode {
            TimerMode::OneShot | TimerMode::Periodic if self.count != 0 => {
                Some(self.since.saturating_add(self.period(self.count)))
            }
            TimerMode::TscDeadline if self.tsc_deadline != 0 => {
                let ticks = self.tsc_deadline.saturating_sub(self.tsc(now));
                let nanos = mul_div_ceil(ticks, NANOS_PER_SECOND, u128::from(self.clock.tsc_hz));
                Some(now.saturating_add(nanos))
            }
            _ => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_shot_counts_down_and_stops() {
        let mut timer = ApicTimer::new(ApicClock::default());
        timer.set_divide_config(0xb, 0);
        timer.set_initial(100, 1000);
        assert_eq!(timer.expiry(), Some(1000 + 100 * 40));
        assert_eq!(timer.current(1000 + 40 * 30), 70);
        assert!(!timer.expire(4999));
        assert!(timer.expire(5000));
        assert_eq!((timer.expiry(), timer.current(6000)), (None, 0));
    }

    #[test]
    fn divide_configuration_follows_the_table() {
        for (config, divisor) in [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)] {
            let mut timer = ApicTimer::new(ApicClock::default());
            timer.set_divide_config(config, 0);
            timer.set_initial(10, 0);
            assert_eq!(timer.expiry(), Some(10 * 40 * divisor), "divide configuration {config}");
        }
    }

    #[test]
    fn periodic_keeps_its_phase_over_missed_periods() {
        let mut timer = ApicTimer::new(ApicClock::default());
        timer.set_divide_config(0xb, 0);
        timer.set_mode(TimerMode::Periodic, 0);
        timer.set_initial(25, 0);
        assert!(timer.expire(3500));
        assert_eq!(timer.expiry(), Some(4000));
        assert!(!timer.expire(3999));
        assert!(timer.expire(4000));
    }

    #[test]
    fn tsc_deadline_scales_and_disarms() {
        let clock = ApicClock { tsc_hz: 2_000_000_000, timer_hz: 25_000_000 };
        let mut timer = ApicTimer::new(clock);
        timer.set_tsc_deadline(500, 0);
        assert_eq!(timer.tsc_deadline(), 0, "ignored outside the mode");
        timer.set_mode(TimerMode::TscDeadline, 0);
        timer.set_tsc_offset(100, 0);
        timer.set_tsc_deadline(1100, 0);
        assert_eq!(timer.expiry(), Some(500));
        assert!(timer.expire(500));
        assert_eq!((timer.tsc_deadline(), timer.expiry()), (0, None));
        timer.set_tsc_deadline(1, 700);
        assert_eq!(timer.expiry(), Some(700), "a deadline in the past expires at once");
    }

    #[test]
    fn a_change_of_divider_keeps_the_count() {
        let mut timer = ApicTimer::new(ApicClock::default());
        timer.set_divide_config(0xb, 0);
        timer.set_initial(100, 0);
        timer.set_divide_config(0, 40 * 50);
        assert_eq!(timer.current(40 * 50), 50);
        assert_eq!(timer.expiry(), Some(40 * 50 + 50 * 80));
    }
}
