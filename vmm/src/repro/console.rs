//! A guest's console as lines of text, without what the kernel and its loggers put in front of a message.

use crate::quantity::parse_number;

/// A line longer than this is cut; no kernel message is.
const MAX_LINE: usize = 2048;

/// The lines of `bytes`: whatever is no text, control characters included, is replaced.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = String> {
    bytes.split(|&byte| byte == b'\n').map(|line| {
        let line = line.get(..MAX_LINE).unwrap_or(line);
        String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line))
            .chars()
            .map(|c| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c })
            .collect()
    })
}

/// The message in a console line: without log level (`<4>`), time (`[    1.234567]`), caller (`[   T64]`) and blanks.
pub(super) fn message(line: &str) -> &str {
    let mut rest = line.trim();
    while let Some(after) = strip_level(rest).or_else(|| strip_brackets(rest)) {
        rest = after.trim_start();
    }
    rest
}

fn strip_level(text: &str) -> Option<&str> {
    let (level, rest) = text.strip_prefix('<')?.split_once('>')?;
    (!level.is_empty() && level.bytes().all(|byte| byte.is_ascii_digit())).then_some(rest)
}

fn strip_brackets(text: &str) -> Option<&str> {
    let (inside, rest) = text.strip_prefix('[')?.split_once(']')?;
    (is_time(inside.trim()) || is_caller(inside.trim())).then_some(rest)
}

fn is_time(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.split_once('.').is_some_and(|(seconds, fraction)| digits(seconds) && digits(fraction))
}

/// `T64` for a thread, `C1` for a CPU in interrupt context (CONFIG_PRINTK_CALLER).
fn is_caller(text: &str) -> bool {
    text.strip_prefix(['T', 'C'])
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The text after `key` up to the next blank or comma.
pub(super) fn word_after<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(key)?;
    let word = rest.split([' ', ',', '\t']).next()?;
    (!word.is_empty()).then_some(word)
}

/// What the kernel log says of the machine, for the report's first line and for comparing with the original report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Machine {
    /// From the first line of the log.
    pub kernel_release: Option<String>,
    /// `off`, `on` or `force`.
    pub swiotlb: &'static str,
    /// Vendor and device id, and class code, of the PCI function looked for.
    pub function: Option<PciFunction>,
    pub panic: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PciFunction {
    pub vendor: u64,
    pub device: u64,
    /// Class, subclass, programming interface.
    pub class: u64,
}

/// Mellanox device ids of virtual functions: Connect-IB, ConnectX-4, -4 Lx, -5, -5 Ex, -6 and later (PCI ID database).
const MLX5_VIRTUAL: [u64; 7] = [0x1012, 0x1014, 0x1016, 0x1018, 0x101a, 0x101c, 0x101e];

impl PciFunction {
    /// `RoCE PF`, `InfiniBand VF` and so on, if it is an RDMA function whose ids are known.
    pub(super) fn link(self) -> Option<String> {
        let layer = match self.class >> 8 {
            0x0200 => "RoCE",
            0x0207 => "InfiniBand",
            _ => return None,
        };
        let kind = match self.vendor {
            0x15b3 if MLX5_VIRTUAL.contains(&self.device) => "VF",
            0x15b3 => "PF",
            _ => return None,
        };
        Some(format!("{layer} {kind}"))
    }
}

impl Machine {
    /// Reads the log for what it says of the machine and of the PCI function at `address`.
    pub(super) fn read(lines: &[String], address: &str) -> Self {
        let mut machine = Self { swiotlb: "off", ..Self::default() };
        let announces = format!("pci {address}: [");
        for message in lines.iter().map(|line| message(line)) {
            if let Some(rest) = message.strip_prefix("Linux version ") {
                machine.kernel_release = rest.split(' ').next().map(str::to_owned);
            } else if let Some(parameters) = message.strip_prefix("Command line: ") {
                // `swiotlb=` takes numbers before the word: `swiotlb=65536,force`.
                let mut words = parameters.split(' ').filter_map(|word| word.strip_prefix("swiotlb="));
                if words.any(|values| values.split(',').any(|value| value == "force")) {
                    machine.swiotlb = "force";
                }
            } else if message.contains("Using software bounce buffering for IO") {
                if machine.swiotlb == "off" {
                    machine.swiotlb = "on";
                }
            } else if let Some(rest) = message.strip_prefix(&announces) {
                machine.function = pci_function(rest);
            } else if message.starts_with("Kernel panic - not syncing") && machine.panic.is_none() {
                machine.panic = Some(message.to_owned());
            }
        }
        machine
    }
}

/// `15b3:1018] type 00 class 0x020700 PCIe Endpoint`
fn pci_function(text: &str) -> Option<PciFunction> {
    let (ids, rest) = text.split_once(']')?;
    let (vendor, device) = ids.split_once(':')?;
    Some(PciFunction {
        vendor: u64::from_str_radix(vendor, 16).ok()?,
        device: u64::from_str_radix(device, 16).ok()?,
        class: parse_number(word_after(rest, "class ")?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_stripped_and_nothing_else() {
        for (line, expected) in [
            ("[    1.234567] DMA-API: x", "DMA-API: x"),
            ("<4>[    1.234567][   T64] DMA-API: x", "DMA-API: x"),
            ("[12345.000001][ C1]  ? foo+0x1/0x2", "? foo+0x1/0x2"),
            ("  <TASK>", "<TASK>"),
            ("[drm] text", "[drm] text"),
            ("[mlx5_ib]", "[mlx5_ib]"),
            ("[1.2.3] text", "[1.2.3] text"),
            ("<4", "<4"),
            ("[", "["),
            ("", ""),
        ] {
            assert_eq!(message(line), expected);
        }
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        let all: Vec<String> = lines(b"a\x1b[2Jb\r\n\xff\tc\rd").collect();
        assert_eq!(all, ["a\u{fffd}[2Jb", "\u{fffd}\tc\u{fffd}d"]);
    }

    #[test]
    fn the_log_tells_of_swiotlb_and_of_the_function() {
        let read = |text: &str| Machine::read(&lines(text.as_bytes()).collect::<Vec<_>>(), "0000:08:00.0");
        assert_eq!(read("Command line: console=ttyS0 swiotlb=force").swiotlb, "force");
        assert_eq!(read("Command line: swiotlb=65536,force panic=-1").swiotlb, "force");
        assert_eq!(read("Command line: swiotlb=noforce").swiotlb, "off");
        assert_eq!(read("PCI-DMA: Using software bounce buffering for IO (SWIOTLB)").swiotlb, "on");
        let link = |text| read(text).function.and_then(PciFunction::link);
        let line = "[    0.1] pci 0000:08:00.0: [15b3:1018] type 00 class 0x020700 PCIe Endpoint";
        assert_eq!(link(line).as_deref(), Some("InfiniBand VF"));
        assert_eq!(link("pci 0000:08:00.0: [15b3:1017] type 00 class 0x020000").as_deref(), Some("RoCE PF"));
        assert_eq!(link("pci 0000:07:00.0: [15b3:1017] type 00 class 0x020000"), None);
        assert_eq!(link("pci 0000:08:00.0: [8086:1017] type 00 class 0x020000"), None);
    }
}
