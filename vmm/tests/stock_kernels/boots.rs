//! Every stock kernel boots to user space with one, two and four vCPUs and a clean log.

use crate::{in_guest, kernel_log, with_image};
use libtest_mimic::{Failed, Trial};
use std::sync::Mutex;

const IMAGES: [&str; 5] =
    ["debian-cloud-6.1", "debian-6.1", "debian-cloud-6.12", "debian-6.12", "debian-cloud-7.2"];
const CPUS: [u32; 3] = [1, 2, 4];

/// Image, vCPUs, and what came of it.
static TABLE: Mutex<Vec<(&str, u32, String)>> = Mutex::new(Vec::new());

pub fn trials() -> Vec<Trial> {
    let rows = IMAGES.iter().flat_map(|image| CPUS.map(|cpus| (*image, cpus)));
    rows.map(|(image, cpus)| {
        with_image(format!("boot::{image}::{cpus}_vcpus"), image, move |_| {
            let outcome = boot(image, cpus);
            let text = match &outcome {
                Ok(text) => text.clone(),
                Err(failed) => format!("FAILED: {}", failed.message().unwrap_or_default().trim()),
            };
            TABLE.lock().unwrap().push((image, cpus, text));
            outcome.map(|_| ())
        })
    })
    .collect()
}

/// Notes an image that the mirror cannot serve.
pub fn unavailable(image: &'static str) {
    TABLE.lock().unwrap().push((image, 0, "unavailable".to_owned()));
}

fn boot(image: &str, cpus: u32) -> Result<String, Failed> {
    let script = "uname -r; nproc; dmesg -r";
    let output = in_guest(&["--kernel", image, "--cpus", &cpus.to_string()], script)?;
    let (release, rest) = output.split_once('\n').unwrap_or_default();
    let (processors, log) = rest.split_once('\n').unwrap_or_default();
    if processors != cpus.to_string() {
        return Err(format!("{processors} of {cpus} processors are online\n{log}").into());
    }
    let judgement = kernel_log::judge(log, release);
    if !judgement.unexpected.is_empty() {
        return Err(judgement.unexpected.join("\n").into());
    }
    if !log.contains("Linux version") {
        return Err(format!("the log has lost its beginning\n{log}").into());
    }
    Ok(format!("{release}: clean, {} lines, {} allowed", judgement.lines, judgement.allowed))
}

/// The boots that were run, one a line, and how many images were unavailable.
pub fn print_table() {
    let mut rows = TABLE.lock().unwrap();
    rows.sort();
    if rows.is_empty() {
        return;
    }
    println!("{:18} {:>5}  log", "image", "vCPUs");
    for (image, cpus, text) in rows.iter() {
        println!("{image:18} {cpus:>5}  {}", text.replace('\n', "\n                          "));
    }
    let mut missing: Vec<_> = rows.iter().filter(|(_, cpus, _)| *cpus == 0).map(|row| row.0).collect();
    missing.dedup();
    println!("{} images unavailable", missing.len());
}
