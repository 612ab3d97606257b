//! The PCI function of a virtio device (virtio 1.2, 4.1).
//!
//! BAR 0 holds one structure a page: common configuration, ISR status, device-specific configuration, notifications.

use super::common_config::{self, Register};
use super::queue::{MAX_BATCH, NO_VECTOR, QueueError, VirtQueue};
use super::{DeviceType, Step, feature};
use crate::bus::{Access, AccessError, AccessLog, Nanos};
use crate::pci::{BarInfo, FunctionInfo, PciDevice, Port, VendorCapability};
use crate::state::{State, in_range, same};
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

const VENDOR_ID: u16 = 0x1af4;
/// PCI device ID of a modern device, to which the type's ID is added.
const DEVICE_ID: u16 = 0x1040;

/// Each structure has a page of BAR 0.
const PAGE: u64 = 0x1000;
const COMMON: u64 = 0;
const ISR: u64 = PAGE;
const DEVICE: u64 = 2 * PAGE;
const NOTIFY: u64 = 3 * PAGE;
const BAR_SIZE: u64 = 4 * PAGE;
/// Bytes between the notification registers of two queues.
const NOTIFY_MULTIPLIER: u32 = 4;

/// Types of capabilities (virtio, 4.1.4).
const CAP_COMMON: u8 = 1;
const CAP_NOTIFY: u8 = 2;
const CAP_ISR: u8 = 3;
const CAP_DEVICE: u8 = 4;
const CAP_PCI: u8 = 5;

const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

const DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;
const FEATURES_OK: u8 = VIRTIO_CONFIG_S_FEATURES_OK as u8;
const NEEDS_RESET: u8 = VIRTIO_CONFIG_S_NEEDS_RESET as u8;

/// From a notification to when the device looks at the queue.
pub const NOTIFY_LATENCY: Nanos = 10_000;
/// What a buffer costs, and a byte: with both a disk does some 100,000 requests or 1 GB a second.
const BUFFER_COST: Nanos = 2_000;
const BYTE_COST: Nanos = 1;
/// Bytes that are moved for a queue between two events; the last step may exceed it.
const BYTES_A_TURN: u64 = 512 << 10;
/// Steps for a queue between two events: a buffer of which nothing is moved is work, too.
const STEPS_A_TURN: usize = MAX_BATCH;

/// Event token: the device's own time has come. Tokens below are queues.
const EVENT_DEVICE: u32 = 1 << 16;

/// A virtio function with a device of type `T` behind it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VirtioPci<T> {
    device: T,
    /// VIRTIO_F_ACCESS_PLATFORM is offered.
    access_platform: bool,
    /// What is moved to and from buffers asks for PCIe No Snoop.
    no_snoop: bool,
    queues: Vec<VirtQueue>,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    status: u8,
    config_vector: u16,
    queue_select: u16,
    isr: u8,
    log: AccessLog,
}

impl<T: DeviceType> VirtioPci<T> {
    /// A function in the state after power-on. It offers VIRTIO_F_ACCESS_PLATFORM, as a device must whose accesses an IOMMU
    /// translates, unless `access_platform` is false.
    pub fn new(device: T, access_platform: bool) -> Self {
        Self {
            queues: vec![VirtQueue::default(); usize::from(device.queues())],
            device,
            access_platform,
            no_snoop: false,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            status: 0,
            config_vector: NO_VECTOR,
            queue_select: 0,
            isr: 0,
            log: AccessLog::default(),
        }
    }

    /// The function, with buffers' bytes moved with PCIe No Snoop: caches need not be looked into. Rings are snooped.
    #[must_use]
    pub fn without_snooping_payload(self) -> Self {
        Self { no_snoop: true, ..self }
    }

    fn features(&self) -> u64 {
        let access_platform = if self.access_platform { feature(VIRTIO_F_ACCESS_PLATFORM) } else { 0 };
        self.device.features()
            | feature(VIRTIO_F_VERSION_1)
            | feature(VIRTIO_RING_F_INDIRECT_DESC)
            | feature(VIRTIO_RING_F_EVENT_IDX)
            | feature(VIRTIO_F_RING_RESET)
            | access_platform
    }

    /// MSI-X vectors: one for configuration changes, one a queue.
    fn vectors(&self) -> u16 {
        self.device.queues().saturating_add(1)
    }

    /// The driver has finished its initialisation, and nothing has gone wrong since.
    fn is_live(&self) -> bool {
        self.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK
    }

    fn selected(&self) -> Option<&VirtQueue> {
        self.queues.get(usize::from(self.queue_select))
    }

    fn interrupt(&mut self, vector: u16, cause: u8, port: &mut dyn Port) {
        if port.msix_enabled() {
            if vector != NO_VECTOR {
                port.msi(vector);
            }
        } else {
            self.isr |= cause;
            port.set_interrupt_pin(true);
        }
    }

    /// The driver has broken the rules: nothing more is done until it resets the device (virtio, 2.1.2).
    fn fail(&mut self, queue: u16, error: QueueError, port: &mut dyn Port) {
        self.log.refused(format_args!("{}: queue {queue}: needs a reset", T::NAME), error);
        self.status |= NEEDS_RESET;
        if self.status & DRIVER_OK != 0 {
            self.interrupt(self.config_vector, ISR_CONFIG, port);
        }
    }

    // ---- Queues ----

    fn schedule(&mut self, queue: u16, delay: Nanos, port: &mut dyn Port) {
        if let Some(state) = self.queues.get_mut(usize::from(queue))
            && !state.scheduled
        {
            state.scheduled = true;
            port.schedule(port.now().saturating_add(delay), u32::from(queue));
        }
    }

    fn notify(&mut self, queue: u16, port: &mut dyn Port) {
        let ready = self.queues.get(usize::from(queue)).is_some_and(|queue| queue.state.ready);
        if ready && self.is_live() {
            self.schedule(queue, NOTIFY_LATENCY, port);
        }
    }

    /// Returns what is finished on `queue`, and begins or goes on with what is next.
    fn turn(&mut self, queue: u16, port: &mut dyn Port) -> Result<(), QueueError> {
        let live = self.is_live();
        let Some(state) = self.queues.get_mut(usize::from(queue)) else { return Ok(()) };
        state.scheduled = false;
        if !state.state.ready || !live {
            return Ok(());
        }
        let vector = state.vector;
        if state.return_finished(port)? {
            self.interrupt(vector, ISR_QUEUE, port);
        }
        let moved = self.work(queue, port)?;
        let Some(state) = self.queues.get_mut(usize::from(queue)) else { return Ok(()) };
        let finished = state.finished.len() as u64;
        if finished != 0 || state.current.is_some() {
            self.schedule(queue, finished.max(1) * BUFFER_COST + moved * BYTE_COST, port);
        } else if state.enable_notification(port)? && self.device.wants(queue, port.now()) {
            self.schedule(queue, NOTIFY_LATENCY, port);
        }
        Ok(())
    }

    /// Works at buffers of `queue` for a turn; returns the bytes moved.
    fn work(&mut self, queue: u16, port: &mut dyn Port) -> Result<u64, QueueError> {
        let Some(state) = self.queues.get_mut(usize::from(queue)) else { return Ok(0) };
        let mut moved = 0;
        for _ in 0..STEPS_A_TURN {
            if moved >= BYTES_A_TURN {
                break;
            }
            if state.current.is_none() {
                if !self.device.wants(queue, port.now()) {
                    break;
                }
                state.current = state.take(port, self.no_snoop)?;
            }
            let Some(buffer) = &mut state.current else { break };
            let before = buffer.moved();
            let step = self.device.serve(queue, buffer, port)?;
            moved += buffer.moved() - before;
            if step == Step::Done {
                state.finished.push((buffer.head(), buffer.written()));
                state.current = None;
            }
        }
        Ok(moved)
    }

    /// Asks for the device's own event, unless its time has passed: then it waits for a buffer.
    fn schedule_device(&self, port: &mut dyn Port) {
        if let Some((_, at)) = self.device.next_event()
            && at > port.now()
        {
            port.schedule(at, EVENT_DEVICE);
        }
    }

    // ---- Common configuration ----

    fn read_common(&self, register: Register) -> u64 {
        let queue = |value: fn(&VirtQueue) -> u64| self.selected().map_or(0, value);
        match register {
            Register::DeviceFeatureSelect => self.device_feature_select.into(),
            Register::DeviceFeature => half(self.features(), self.device_feature_select),
            Register::DriverFeatureSelect => self.driver_feature_select.into(),
            Register::DriverFeature => half(self.driver_features, self.driver_feature_select),
            Register::ConfigVector => self.config_vector.into(),
            Register::NumQueues => self.queues.len() as u64,
            Register::DeviceStatus => self.status.into(),
            // No field of any device's configuration changes by itself.
            Register::ConfigGeneration => 0,
            Register::QueueSelect => self.queue_select.into(),
            Register::QueueSize => queue(|queue| queue.state.size.into()),
            Register::QueueVector => self.selected().map_or(NO_VECTOR, |queue| queue.vector).into(),
            Register::QueueEnable => queue(|queue| queue.state.ready.into()),
            Register::QueueNotifyOff => self.selected().map_or(0, |_| self.queue_select.into()),
            Register::QueueDescriptors => queue(|queue| queue.state.desc_table),
            Register::QueueDriver => queue(|queue| queue.state.avail_ring),
            Register::QueueDevice => queue(|queue| queue.state.used_ring),
            // A reset is complete before it can be asked about.
            Register::QueueNotifyData | Register::QueueReset => 0,
        }
    }

    /// Writes a register; of one of 64 bits the half from bit `shift` on, or all if `size` is 8.
    fn write_common(
        &mut self,
        register: Register,
        shift: u32,
        size: usize,
        value: u64,
        port: &mut dyn Port,
    ) -> Access {
        let vectors = self.vectors();
        let vector = || if value < u64::from(vectors) { value as u16 } else { NO_VECTOR };
        match register {
            Register::DeviceFeatureSelect => self.device_feature_select = value as u32,
            Register::DriverFeatureSelect => self.driver_feature_select = value as u32,
            Register::DriverFeature => self.write_driver_feature(value as u32),
            Register::ConfigVector => self.config_vector = vector(),
            Register::DeviceStatus => self.write_status(value as u8, port),
            Register::QueueSelect => self.queue_select = value as u16,
            Register::QueueReset => {
                if value == 1 && self.has_feature(VIRTIO_F_RING_RESET) {
                    self.reset_queue(self.queue_select, port);
                }
            }
            Register::DeviceFeature
            | Register::NumQueues
            | Register::ConfigGeneration
            | Register::QueueNotifyOff
            | Register::QueueNotifyData => return Err(AccessError::NoRegister),
            Register::QueueVector => {
                if let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) {
                    queue.vector = vector();
                }
            }
            Register::QueueEnable => self.enable_queue(value, port),
            Register::QueueSize
            | Register::QueueDescriptors
            | Register::QueueDriver
            | Register::QueueDevice => self.set_up_queue(register, shift, size, value),
        }
        Ok(())
    }

    fn has_feature(&self, bit: u32) -> bool {
        self.driver_features & feature(bit) != 0
    }

    fn write_driver_feature(&mut self, value: u32) {
        let shift = match self.driver_feature_select {
            select @ (0 | 1) => select * 32,
            _ => return,
        };
        if self.status & FEATURES_OK == 0 {
            self.driver_features = self.driver_features & !(0xffff_ffff << shift) | u64::from(value) << shift;
        }
    }

    fn write_status(&mut self, value: u8, port: &mut dyn Port) {
        if value == 0 {
            for queue in 0..self.device.queues() {
                port.cancel(queue.into());
            }
            port.cancel(EVENT_DEVICE);
            port.set_interrupt_pin(false);
            PciDevice::reset(self);
            return;
        }
        // Bits are only ever added (virtio, 2.1.1), and NEEDS_RESET is the device's.
        let mut status = self.status | value & !NEEDS_RESET;
        // A set of features is accepted if it is one of a modern driver and nothing in it was not offered.
        let acceptable = self.driver_features & !self.features() == 0 && self.has_feature(VIRTIO_F_VERSION_1);
        if status & !self.status & FEATURES_OK != 0 && !acceptable {
            status &= !FEATURES_OK;
        }
        // Before FEATURES_OK there is no agreement to run under.
        if status & FEATURES_OK == 0 {
            status &= !DRIVER_OK;
        }
        let starts = status & !self.status & DRIVER_OK != 0;
        self.status = status;
        if starts {
            self.device.start(self.driver_features, port.now());
            self.schedule_device(port);
            if let Some((queue, _)) = self.device.next_event() {
                self.notify(queue, port);
            }
        }
    }

    fn set_up_queue(&mut self, register: Register, shift: u32, size: usize, value: u64) {
        let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else { return };
        let state = &mut queue.state;
        if state.ready {
            return;
        }
        let merge = |old: u64| {
            if size == 8 { value } else { old & !(0xffff_ffff << shift) | value << shift }
        };
        match register {
            Register::QueueDescriptors => state.desc_table = merge(state.desc_table),
            Register::QueueDriver => state.avail_ring = merge(state.avail_ring),
            Register::QueueDevice => state.used_ring = merge(state.used_ring),
            _ => {
                let value = value as u16;
                if value.is_power_of_two() && value <= state.max_size {
                    state.size = value;
                }
            }
        }
    }

    fn enable_queue(&mut self, value: u64, port: &mut dyn Port) {
        let event_index = self.has_feature(VIRTIO_RING_F_EVENT_IDX);
        let index = self.queue_select;
        let Some(queue) = self.queues.get_mut(usize::from(index)) else { return };
        if value != 1 || queue.state.ready {
            return;
        }
        queue.state.event_idx_enabled = event_index;
        queue.state.ready = true;
        // Only what virtio-queue takes for a queue can be used: parts of it at their alignment.
        if virtio_queue::Queue::try_from(queue.state).is_err() {
            queue.state.ready = false;
            self.fail(index, QueueError::Misaligned, port);
        }
    }

    fn reset_queue(&mut self, index: u16, port: &mut dyn Port) {
        if let Some(queue) = self.queues.get_mut(usize::from(index)) {
            *queue = VirtQueue::default();
            self.device.reset_queue(index);
            port.cancel(index.into());
        }
    }
}

/// Bits 0-31 or 32-63 of a set of features.
fn half(features: u64, select: u32) -> u64 {
    match select {
        0 => features & 0xffff_ffff,
        1 => features >> 32,
        _ => 0,
    }
}

/// A virtio capability from its length byte on: `length` bytes at `offset` of BAR 0.
fn capability(kind: u8, offset: u64, length: u64, more: &[u8]) -> Vec<u8> {
    let mut bytes = vec![16 + more.len() as u8, kind, 0, 0, 0, 0];
    bytes.extend((offset as u32).to_le_bytes());
    bytes.extend((length as u32).to_le_bytes());
    bytes.extend(more);
    bytes
}

impl<T: DeviceType> State for VirtioPci<T> {
    fn accepts(&self, saved: &Self) -> Result<(), &'static str> {
        self.device.accepts(&saved.device)?;
        same(self.access_platform == saved.access_platform && self.no_snoop == saved.no_snoop)?;
        same(self.queues.len() == saved.queues.len())?;
        in_range(saved.queues.iter().all(VirtQueue::is_in_range))
    }
}

impl<T: DeviceType> PciDevice for VirtioPci<T> {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn info(&self) -> FunctionInfo {
        let notify_length = u64::from(self.device.queues()) * u64::from(NOTIFY_MULTIPLIER);
        let config_length = self.device.config().len() as u64;
        let read_only = |kind, offset, length, more: &[u8]| {
            VendorCapability::ReadOnly(capability(kind, offset, length, more))
        };
        let mut vendor_capabilities = vec![
            read_only(CAP_COMMON, COMMON, common_config::LENGTH, &[]),
            read_only(CAP_NOTIFY, NOTIFY, notify_length, &NOTIFY_MULTIPLIER.to_le_bytes()),
            read_only(CAP_ISR, ISR, 1, &[]),
        ];
        if config_length != 0 {
            vendor_capabilities.push(read_only(CAP_DEVICE, DEVICE, config_length, &[]));
        }
        vendor_capabilities.push(VendorCapability::BarWindow(capability(CAP_PCI, 0, 0, &[0; 4])));
        FunctionInfo {
            vendor_id: VENDOR_ID,
            device_id: DEVICE_ID + T::ID as u16,
            subsystem_vendor_id: VENDOR_ID,
            subsystem_id: DEVICE_ID + T::ID as u16,
            // Transitional devices have revision 0.
            revision: 1,
            class: T::CLASS,
            bars: vec![BarInfo { index: 0, size: BAR_SIZE, is_64bit: false, prefetchable: false }],
            msix_vectors: self.vectors(),
            interrupt_pin: true,
            vendor_capabilities,
        }
    }

    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8], port: &mut dyn Port) -> Access {
        if bar != 0 {
            return Err(AccessError::NoRegister);
        }
        let at = offset % PAGE;
        match offset - at {
            COMMON => {
                let (register, shift) = common_config::find(at, data.len())?;
                let value = (self.read_common(register) >> shift).to_le_bytes();
                data.copy_from_slice(value.get(..data.len()).ok_or(AccessError::BadSize)?);
            }
            ISR => match (at, data) {
                (0, [byte]) => {
                    *byte = std::mem::take(&mut self.isr);
                    port.set_interrupt_pin(false);
                }
                (0, _) => return Err(AccessError::BadSize),
                _ => return Err(AccessError::NoRegister),
            },
            DEVICE => {
                let config = self.device.config();
                let from = at as usize;
                data.copy_from_slice(config.get(from..from + data.len()).ok_or(AccessError::NoRegister)?);
            }
            // Notification registers are written only.
            _ if at < u64::from(self.device.queues()) * u64::from(NOTIFY_MULTIPLIER) => data.fill(0),
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }

    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8], port: &mut dyn Port) -> Access {
        if bar != 0 {
            return Err(AccessError::NoRegister);
        }
        let at = offset % PAGE;
        match offset - at {
            COMMON => {
                let (register, shift) = common_config::find(at, data.len())?;
                let value = data.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
                self.write_common(register, shift, data.len(), value, port)
            }
            DEVICE => {
                let from = at as usize;
                if from + data.len() > self.device.config().len() {
                    return Err(AccessError::NoRegister);
                }
                self.device.write_config(from, data, port);
                Ok(())
            }
            NOTIFY => {
                let queue = at / u64::from(NOTIFY_MULTIPLIER);
                if queue >= self.queues.len() as u64 {
                    return Err(AccessError::NoRegister);
                }
                if !at.is_multiple_of(NOTIFY_MULTIPLIER.into()) {
                    return Err(AccessError::Unaligned);
                }
                self.notify(queue as u16, port);
                Ok(())
            }
            // ISR status is read only.
            _ => Err(AccessError::NoRegister),
        }
    }

    fn reseed(&mut self, seed: u64) {
        self.device.reseed(seed);
    }

    fn event(&mut self, token: u32, port: &mut dyn Port) {
        if token == EVENT_DEVICE {
            if let Some((queue, _)) = self.device.next_event() {
                self.notify(queue, port);
            }
            return;
        }
        let queue = token as u16;
        if let Err(error) = self.turn(queue, port) {
            self.fail(queue, error, port);
        }
        self.schedule_device(port);
    }

    fn reset(&mut self) {
        let log = std::mem::take(&mut self.log);
        let mut device = self.device.clone();
        device.reset();
        *self = Self { log, no_snoop: self.no_snoop, ..Self::new(device, self.access_platform) };
    }
}
