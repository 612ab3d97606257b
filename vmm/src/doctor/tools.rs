//! Programs and libraries that image builds run on the host.

use super::Item;
use guest_images::{Host, HostTool};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// A program that does not even tell its version within this time does not work.
const LIMIT: Duration = Duration::from_secs(2);

/// Programs that must be there: (program, what for, Debian package).
const REQUIRED: &[(&str, &str, &str)] = &[
    ("apt-get", "fetches packages", "apt"),
    ("apt-cache", "finds packages", "apt"),
    ("apt-config", "reads apt's configuration", "apt"),
    ("dpkg-deb", "unpacks packages", "dpkg"),
    ("tar", "unpacks the kernel's source", "tar"),
    ("cc", "compiles kernel and programs", "gcc"),
    ("make", "drives the kernel's build", "make"),
    ("ld", "links the kernel", "binutils"),
    ("strip", "shrinks the kernel", "binutils"),
    ("awk", "generates kernel tables", "mawk"),
];

/// Looks at all of them at once. `cached` is the folder into which builds unpack what is absent.
pub(super) fn examine(host: &Host, cached: Option<&Path>) -> Vec<Item> {
    let wanted = match guest_images::host_tools() {
        Ok(wanted) => wanted,
        Err(error) => return vec![Item::missing("host tools", error.to_string())],
    };
    std::thread::scope(|scope| {
        let required = REQUIRED.iter().map(|tool| scope.spawn(|| required(host, tool))).collect::<Vec<_>>();
        let headers = scope.spawn(|| c_library(host));
        let fetched =
            wanted.iter().map(|tool| scope.spawn(|| fetched(host, cached, tool))).collect::<Vec<_>>();
        required
            .into_iter()
            .chain([headers])
            .chain(fetched)
            .map(|thread| thread.join().unwrap_or_else(|_| Item::missing("a tool", "the check failed")))
            .collect()
    })
}

fn required(host: &Host, &(program, purpose, package): &(&str, &str, &str)) -> Item {
    if host.find(program).is_none() {
        let advice = match program.starts_with("apt-") || program == "dpkg-deb" {
            true => {
                "builds need a Debian system; elsewhere bring your own kernel: --kernel FILE --initrd FILE"
                    .into()
            }
            false => format!("install it: apt-get install {package}"),
        };
        return Item::missing(program, format!("not found ({purpose})")).advise(advice);
    }
    match version(host, program) {
        Ok(version) => Item::ok(program, version),
        // mawk and others know no --version; that it is there is enough.
        Err(Failure::Status) => Item::ok(program, purpose),
        Err(Failure::Broken) => Item::missing(program, format!("found, does not run ({purpose})"))
            .advise(format!("install it anew: apt-get install --reinstall {package}")),
    }
}

/// A compiler without the C library's headers is common in small containers.
fn c_library(host: &Host) -> Item {
    match compiles(host, "#include <stdio.h>\n", &[]) {
        true => Item::ok("C library", "headers and libraries are there"),
        false => Item::missing("C library", "cc cannot build a program")
            .advise("install a compiler and the C library's headers: apt-get install gcc libc6-dev"),
    }
}

/// A tool that builds take from packages if the machine has none.
fn fetched(host: &Host, cached: Option<&Path>, tool: &HostTool) -> Item {
    let found = match &tool.command {
        Some(program) => host.find(program).and_then(|_| version(host, program).ok()),
        None => works(host, tool).then(|| "headers and library are there".to_owned()),
    };
    if let Some(version) = found {
        return Item::ok(&tool.name, version);
    }
    let unpacked = |root: &Path| {
        let program = tool.command.iter().map(|program| root.join("usr/bin").join(program));
        let header = tool.header.iter().map(|header| root.join("usr/include").join(header));
        program.chain(header).all(|file| file.exists())
    };
    match cached {
        Some(root) if unpacked(root) => {
            Item::ok(&tool.name, "not installed; a build unpacked it into the image cache")
        }
        _ => Item::ok(
            &tool.name,
            "not installed; the first build unpacks it into the image cache, without root",
        ),
    }
}

fn works(host: &Host, tool: &HostTool) -> bool {
    let include = tool.header.iter().map(|header| format!("#include <{header}>\n")).collect::<String>();
    let library: Vec<String> = tool.library.iter().map(|library| format!("-l{library}")).collect();
    compiles(host, &include, &library)
}

fn compiles(host: &Host, include: &str, arguments: &[String]) -> bool {
    if host.find("cc").is_none() {
        return false;
    }
    let mut command = command(host, "cc");
    command.args(["-x", "c", "-", "-o", "/dev/null"]).args(arguments);
    output(&mut command, &format!("{include}int main(void) {{ return 0; }}\n")).is_ok()
}

/// The first line that `program --version` prints.
fn version(host: &Host, program: &str) -> Result<String, Failure> {
    let text = output(command(host, program).arg("--version"), "")?;
    Ok(text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(70).collect())
}

fn command(host: &Host, program: &str) -> Command {
    // By its path: the search path of the command's environment does not decide where std looks.
    let mut command = Command::new(host.find(program).unwrap_or_else(|| program.into()));
    command.env("PATH", &host.path).env("LC_ALL", "C");
    command
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It ran and ended with another status than 0.
    Status,
    /// It did not start, or did not end in time.
    Broken,
}

/// What `command` prints, given `input`, if it succeeds in time.
pub(super) fn output(command: &mut Command, input: &str) -> Result<String, Failure> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|_| Failure::Broken)?;
    if let Some(mut stdin) = child.stdin.take() {
        // Programs need not read it.
        let _ = stdin.write_all(input.as_bytes());
    }
    let (sender, receiver) = mpsc::channel();
    let stdout = child.stdout.take();
    let reader = std::thread::Builder::new().spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is what there is.
        let _ = stdout.map(|mut stdout| stdout.read_to_end(&mut bytes));
        let _ = sender.send(bytes);
    });
    // The output's end stands for the program's: what holds it open overstays as well.
    let bytes = reader.ok().and_then(|_| receiver.recv_timeout(LIMIT).ok());
    if bytes.is_none() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|_| Failure::Broken)?;
    let bytes = bytes.ok_or(Failure::Broken)?;
    if !status.success() {
        return Err(Failure::Status);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
