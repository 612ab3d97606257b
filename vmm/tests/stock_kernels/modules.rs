//! Out-of-tree modules are built against the trees of the debug kernels and the headers of stock kernels, and load there.

use crate::{common, in_guest, with_image};
use guest_images::Image;
use libtest_mimic::{Failed, Trial};
use std::path::Path;

const IMAGES: [&str; 5] =
    ["debian-cloud-6.1", "debian-6.12", "linux-6.12-debug", "linux-6.1-debug", "linux-7.2-debug"];
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-images/drivers/hello");

pub fn trials() -> Vec<Trial> {
    IMAGES.map(|image| with_image(format!("module::{image}"), image, move |built| load(image, built))).into()
}

fn load(name: &str, image: &Image) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let output = common::path(folder.path());
    let built = common::run(&["images", "module", SOURCE, "--kernel", name, "--output", output]);
    let module = folder.path().join("hello.ko");
    if built.status != 0 || built.stdout.trim() != common::path(&module) {
        return Err(format!("{built:?}").into());
    }
    if Path::new(SOURCE).join("hello.o").exists() {
        return Err("the source folder has been built in".into());
    }
    let script = "insmod /hello.ko name=tester && rmmod hello && dmesg | grep 'hello:'";
    let log = in_guest(&["--kernel", name, "--file", common::path(&module)], script)?;
    let release = &image.manifest.kernel_release;
    let said = format!("hello: tester, built for {release}, running on {release}");
    if !log.contains(&said) || !log.contains("hello: goodbye, tester") {
        return Err(format!("no {said:?} in\n{log}").into());
    }
    Ok(())
}
