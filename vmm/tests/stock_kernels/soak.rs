//! A soak of user space: python's numeric tests, openssl and a compiler from Debian's packages, whole, in the guest. What
//! has no check of its own is compared with the same program run on this host.

use crate::{common, in_guest, with_image};
use guest_images::Image;
use libtest_mimic::{Failed, Trial};
use std::path::Path;
use std::process::Command;

const IMAGE: &str = "debian-soak-6.12";
const WORKLOAD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-images/programs/workload.c");

/// Python's tests of numbers that take seconds in the guest.
const NUMERIC: &str = "test_float test_cmath test_complex test_fractions test_int test_struct";
/// Those that take minutes, and others that work a processor hard.
const LONG: &str = "test_math test_decimal test_long test_random test_statistics test_numeric_tower test_hashlib test_zlib \
                    test_lzma test_bz2 test_json test_re test_array test_bytes test_memoryview test_ctypes test_threading";

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

/// Keys and signatures, which begin with random numbers and check themselves.
const SIGNATURES: &str = "
set -e
cd /tmp
echo message > message
openssl genrsa -out rsa.pem 1024 2> /dev/null
openssl ecparam -genkey -name prime256v1 -out ec.pem
openssl genpkey -algorithm ed25519 -out ed.pem
for key in rsa ec; do
    openssl dgst -sha256 -sign $key.pem -out signature message
    openssl pkey -in $key.pem -pubout -out public.pem
    openssl dgst -sha256 -verify public.pem -signature signature message
    echo other | openssl dgst -sha256 -verify public.pem -signature signature && exit 1
done
openssl pkeyutl -sign -inkey ed.pem -rawin -in message -out signature
openssl pkeyutl -verify -inkey ed.pem -rawin -in message -sigfile signature
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

pub fn trials() -> Vec<Trial> {
    let long = with_image("soak::python_long".into(), IMAGE, |_| python(LONG));
    vec![
        with_image("soak::python_numeric".into(), IMAGE, |_| python(NUMERIC)),
        with_image("soak::ciphers_and_digests".into(), IMAGE, ciphers),
        with_image("soak::signatures".into(), IMAGE, |_| signatures()),
        with_image("soak::compiler".into(), IMAGE, |_| compiler()),
        long.with_ignored_flag(true),
    ]
}

fn soak(options: &[&str], script: &str) -> Result<String, Failed> {
    in_guest(&[&["--kernel", IMAGE, "--memory", "1536M"], options].concat(), script)
}

fn python(tests: &str) -> Result<(), Failed> {
    // The working folder is one that the tests may write.
    let output = soak(&[], &format!("cd /tmp && python3.11 -m test {tests} 2>&1"))?;
    let count = tests.split_whitespace().count();
    if output.contains("Tests result: SUCCESS") && output.contains(&format!("All {count} tests OK.")) {
        return Ok(());
    }
    Err(output.into())
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

fn signatures() -> Result<(), Failed> {
    let output = soak(&[], SIGNATURES)?;
    let verified = output.lines().filter(|line| *line == "Verified OK").count();
    if verified == 2 && output.contains("Signature Verified Successfully") {
        return Ok(());
    }
    Err(output.into())
}

fn compiler() -> Result<(), Failed> {
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
