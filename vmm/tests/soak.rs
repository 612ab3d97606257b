//! A soak of user space: openssl and a compiler from Debian's packages, whole, in a guest, compared with the same programs run
//! on this host. What checks itself is in `ci/suites/stock`.
//!
//! Image: debian-soak-6.12, built at first use. If the mirror cannot serve it the tests are "ignored, unavailable: …".

mod common;

use guest_images::{Image, Store};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::path::Path;
use std::process::{Command, ExitCode};

/// Host seconds that a run may take on a slow, busy machine.
const PATIENCE: &str = "1500";
const IMAGE: &str = "debian-soak-6.12";
const WORKLOAD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-images/programs/workload.c");

/// Digests of a large file that a cipher has made, and all digests and ciphers over its beginning.
const CIPHERS: &str = "
head -c 33554432 /dev/zero |
    program openssl enc -aes-256-ctr -K 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f \
        -iv 0f0e0d0c0b0a09080706050403020100 > $folder/large
program sha256sum < $folder/large
head -c 2097152 < $folder/large > $folder/data
for digest in md5 sha1 sha224 sha256 sha384 sha512 sha3-256 blake2b512 sm3; do
    program openssl dgst -r -$digest < $folder/data
done
for cipher in aes-128-cbc aes-192-cbc aes-256-cbc aes-128-cfb aes-256-ofb aes-128-ctr camellia-128-cbc chacha20; do
    echo $cipher
    program openssl enc -$cipher -pbkdf2 -iter 100 -S 0123456789abcdef -k secret < $folder/data > $folder/cipher
    program sha256sum < $folder/cipher
    program openssl enc -d -$cipher -pbkdf2 -iter 100 -S 0123456789abcdef -k secret < $folder/cipher |
        cmp - $folder/data && echo back
done
for sum in md5sum sha1sum sha512sum b2sum cksum; do program $sum < $folder/data; done
";

/// Compiles the workload without and with optimisation, static, so that the host can run the same file, and runs it.
const COMPILER: &str = "
set -e
cd /tmp
for level in 0 2; do
    gcc-12 -O$level -static -o workload /workload.c -lm
    ./workload > output
    echo \"output of -O$level\"
    cat output
done
echo binary
base64 workload
";

fn main() -> ExitCode {
    let trial = |name: &str, test: Test| Trial::ignorable_test(name.to_owned(), move || with_image(test));
    let trials = vec![trial("ciphers_and_digests", ciphers), trial("compiler", compiler)];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

type Test = fn(&Image) -> Result<(), Failed>;

fn with_image(test: Test) -> Result<Completion, Failed> {
    match Store::open(None)?.ensure(IMAGE, guest_images::progress::for_stderr().as_ref()) {
        Ok(image) => test(&image).map(|()| Completion::Completed),
        Err(error) if error.is_unavailable() => Ok(Completion::ignored_with(error)),
        Err(error) => Err(error.into()),
    }
}

/// Runs a shell script in the guest and returns what it printed.
fn soak(options: &[&str], script: &str) -> Result<String, Failed> {
    let guest = ["run", "--timeout", PATIENCE, "--kernel", IMAGE, "--memory", "1536M"];
    let ran = common::run(&[&guest[..], options, &["--", "sh", "-c", script]].concat());
    if ran.status != 0 {
        return Err(format!("exit status {}\n{}\n{}", ran.status, ran.stdout, ran.stderr).into());
    }
    Ok(ran.stdout)
}

fn ciphers(image: &Image) -> Result<(), Failed> {
    let guest = soak(&[], &format!("folder=/tmp; program() {{ \"$@\"; }}\n{CIPHERS}"))?;
    let root = image.userspace.as_deref().ok_or("the image keeps no user space")?;
    let host = on_host(root, CIPHERS)?;
    if guest.lines().filter(|line| *line == "back").count() != 8 {
        return Err(guest.into());
    }
    differ("the guest", &guest, "this host", &host)
}

fn compiler(_image: &Image) -> Result<(), Failed> {
    let output = soak(&["--file", WORKLOAD], COMPILER)?;
    let (outputs, encoded) = output.split_once("binary\n").ok_or("no binary")?;
    let (first, second) = outputs
        .split_once("output of -O2\n")
        .and_then(|(first, second)| Some((first.strip_prefix("output of -O0\n")?, second)))
        .ok_or("no two outputs")?;
    let text = common::file(encoded.as_bytes());
    let folder = tempfile::tempdir()?;
    let binary = folder.path().join("workload");
    let script = "base64 -d < \"$0\" > \"$1\" && chmod +x \"$1\" && \"$1\"";
    let ran = Command::new("sh").args(["-c", script]).arg(text.path()).arg(&binary).output()?;
    let host = String::from_utf8_lossy(&ran.stdout);
    if !ran.status.success() || host.lines().count() != 8 {
        return Err(format!("the host cannot run what the guest compiled: {ran:?}").into());
    }
    differ("-O0 in the guest", first, "this host", &host)?;
    differ("-O2 in the guest", second, "this host", &host)
}

/// Runs a script on this machine whose programs are the image's own.
fn on_host(root: &Path, script: &str) -> Result<String, Failed> {
    let folder = tempfile::tempdir()?;
    let prelude = "root=$0; folder=$1; program() { name=$1; shift; \"$root/lib64/ld-linux-x86-64.so.2\" --library-path \
                   \"$root/lib/x86_64-linux-gnu:$root/usr/lib/x86_64-linux-gnu\" \"$root/usr/bin/$name\" \"$@\"; }\n";
    let ran = Command::new("sh")
        .args(["-c", &format!("{prelude}{script}")])
        .args([root, folder.path()])
        .env("OPENSSL_MODULES", root.join("usr/lib/x86_64-linux-gnu/ossl-modules"))
        .output()?;
    if !ran.status.success() {
        return Err(format!("{ran:?}").into());
    }
    Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
}

fn differ(one: &str, first: &str, other: &str, second: &str) -> Result<(), Failed> {
    if first == second && !first.is_empty() {
        return Ok(());
    }
    Err(format!("{one}:\n{first}\n{other}:\n{second}").into())
}
