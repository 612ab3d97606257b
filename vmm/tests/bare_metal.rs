//! Guests of a few instructions: how runs end, what time is, and how the host's side reaches them.
//! (Guests that misbehave are in `hostile_guests.rs`.)

mod common;

use common::{bare_kernel, new_file, out, path, run, staleline, status_member};
use std::io::{Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

const HLT: u8 = 0xf4;
/// jmp to itself
const SPIN: [u8; 2] = [0xeb, 0xfe];

fn guest(parts: &[&[u8]]) -> tempfile::NamedTempFile {
    bare_kernel(&parts.concat())
}

fn run_guest(parts: &[&[u8]], options: &[&str]) -> (common::Ran, String) {
    let kernel = guest(parts);
    let (_folder, status) = new_file();
    let mut arguments =
        vec!["run", "--kernel", path(kernel.path()), "--memory", "64M", "--status", path(&status)];
    arguments.extend_from_slice(options);
    let ran = run(&arguments);
    let cause = status_member(&status, "cause").as_str().unwrap_or_default().to_owned();
    (ran, cause)
}

#[test]
fn debug_exit_gives_the_status() {
    let (ran, cause) = run_guest(&[&out(0x3f8, b'h'), &out(0x3f8, b'i'), &out(0xf4, 21)], &[]);
    assert_eq!((ran.status, ran.stdout.as_str(), cause.as_str()), (43, "hi", "debug-exit"), "{ran:?}");
}

#[test]
fn power_off_and_reset_end_the_run() {
    // mov dx, 0x604; mov ax, 0x3400; out dx, ax
    let (ran, cause) =
        run_guest(&[&[0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x34, 0x66, 0xef], &SPIN], &[]);
    assert_eq!((ran.status, cause.as_str()), (0, "power-off"), "{ran:?}");
    let (ran, cause) = run_guest(&[&out(0xcf9, 6), &SPIN], &[]);
    assert_eq!((ran.status, cause.as_str()), (0, "reset"), "{ran:?}");
}

#[test]
fn a_deadline_is_exact() {
    for (code, deadline) in [(&SPIN[..], "0.001"), (&[0x90, 0x90, 0x90, 0xeb, 0xfb], "0.0123")] {
        let kernel = guest(&[code]);
        let (_folder, status) = new_file();
        let ran =
            run(&["run", "--kernel", path(kernel.path()), "--deadline", deadline, "--status", path(&status)]);
        assert_eq!(ran.status, 124, "{ran:?}");
        let nanos = (deadline.parse::<f64>().unwrap() * 1e9).round() as u64;
        assert_eq!(status_member(&status, "instructions"), nanos);
        assert_eq!(status_member(&status, "virtual_nanos"), nanos);
    }
}

#[test]
fn idle_time_costs_nothing() {
    // sti; hlt; jmp back: the guest sleeps until the deadline.
    let kernel = guest(&[&[0xfb, HLT, 0xeb, 0xfd]]);
    let (_folder, status) = new_file();
    let ran =
        run(&["run", "--kernel", path(kernel.path()), "--deadline", "86400", "--status", path(&status)]);
    assert_eq!(ran.status, 124, "{ran:?}");
    assert_eq!(status_member(&status, "virtual_nanos"), 86_400_000_000_000_u64);
    assert!(status_member(&status, "instructions").as_u64().unwrap() < 10);
}

#[test]
fn signals_end_the_run_cleanly() {
    let kernel = guest(&[&SPIN]);
    for signal in ["INT", "TERM"] {
        let (_folder, status) = new_file();
        let child = staleline(&["run", "--kernel", path(kernel.path()), "--status", path(&status)])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(500));
        let kill = std::process::Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        let ran: common::Ran = child.wait_with_output().unwrap().into();
        assert_eq!(ran.status, 125, "{ran:?}");
        assert_eq!(status_member(&status, "cause"), "interrupted");
    }
}

/// A guest that opens its serial port (RTS) and echoes bytes until `q`, then ends by debug exit 0.
fn echo_guest() -> tempfile::NamedTempFile {
    let mut code = out(0x3fc, 0x0b);
    code.extend([
        0x66, 0xba, 0xfd, 0x03, // poll: mov dx, 0x3fd
        0xec, // in al, dx
        0xa8, 0x01, // test al, 1
        0x74, 0xf7, // jz poll
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xec, // in al, dx
        0xee, // out dx, al
        0x3c, b'q', // cmp al, 'q'
        0x75, 0xed, // jne poll
    ]);
    code.extend(out(0xf4, 0));
    bare_kernel(&code)
}

#[test]
fn standard_input_reaches_the_console() {
    let kernel = echo_guest();
    let arguments = ["run", "--kernel", path(kernel.path()), "--timeout", "60"];
    let mut child = staleline(&arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdin.write_all(b"abc").unwrap();
    let mut echo = [0; 3];
    stdout.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"abc");
    // More than every queue on the way holds.
    let long = vec![b'x'; 300_000];
    let writer = std::thread::spawn(move || {
        stdin.write_all(&long).unwrap();
        stdin.write_all(b"q").unwrap();
    });
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    writer.join().unwrap();
    assert_eq!((rest.len(), rest.last()), (300_001, Some(&b'q')));
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn a_file_is_input_as_well() {
    let kernel = echo_guest();
    let input = common::file(b"from a file q");
    let ran: common::Ran = staleline(&["run", "--kernel", path(kernel.path()), "--timeout", "60"])
        .stdin(std::fs::File::open(input.path()).unwrap())
        .output()
        .unwrap()
        .into();
    assert_eq!((ran.status, ran.stdout.as_str()), (1, "from a file q"));
}

#[test]
fn input_that_ends_leaves_the_guest_running() {
    let kernel = echo_guest();
    let ran = run(&["run", "--kernel", path(kernel.path()), "--timeout", "1"]);
    assert_eq!(ran.status, 124, "{ran:?}");
}

#[test]
fn a_reader_that_leaves_ends_the_run() {
    // Writes for ever.
    let kernel = guest(&[&out(0x3f8, b'y'), &[0xee, 0xeb, 0xfd]]);
    let mut child = staleline(&["run", "--kernel", path(kernel.path()), "--timeout", "60"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ran: common::Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.status, 125, "{ran:?}");
    assert!(ran.stderr.contains("console"), "{ran:?}");
}

#[test]
fn a_reader_that_stops_reading_does_not_defeat_the_timeout() {
    let kernel = guest(&[&out(0x3f8, b'y'), &[0xee, 0xeb, 0xfd]]);
    let (_folder, status) = new_file();
    let mut child =
        staleline(&["run", "--kernel", path(kernel.path()), "--timeout", "1", "--status", path(&status)])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
    let unread = child.stdout.take();
    assert_eq!(child.wait().unwrap().code(), Some(124));
    assert_eq!(status_member(&status, "cause"), "timeout");
    drop(unread);
}

#[test]
fn memory_beyond_3_gib_is_above_4_gib() {
    // mov rax, [0x1_0000_0000 - 8] is no RAM (all ones); the first word above 4 GiB is. CR3 maps only 4 GiB, so build on
    // the kernel's own table: entry 4 of the page directory pointers gets 1 GiB at 4 GiB.
    let mut code = Vec::new();
    // mov qword [0xa000 + 32], 0x1_0000_0083 through rax
    code.extend([0x48, 0xb8]);
    code.extend(0x1_0000_0083_u64.to_le_bytes());
    code.extend([0x48, 0x89, 0x04, 0x25]);
    code.extend(0xa020_u32.to_le_bytes());
    // mov rax, cr3; mov cr3, rax
    code.extend([0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8]);
    // mov rbx, 0x1_0000_0000; mov dword [rbx], 0x2a; mov eax, [rbx]; mov dx, 0xf4; out dx, al
    code.extend([0x48, 0xbb]);
    code.extend(0x1_0000_0000_u64.to_le_bytes());
    code.extend([0xc7, 0x03, 0x2a, 0, 0, 0, 0x8b, 0x03, 0x66, 0xba, 0xf4, 0, 0xee]);
    let kernel = bare_kernel(&code);
    let run_with =
        |memory| run(&["run", "--kernel", path(kernel.path()), "--memory", memory, "--timeout", "60"]);
    assert_eq!(run_with("4G").status, 0x2a << 1 | 1);
    assert_eq!(run_with("3G").status, 255, "nobody answers: all ones");
}

/// A pseudo-terminal: the side that this program sees, and the side where somebody types.
fn terminal() -> (std::fs::File, std::fs::File) {
    use std::os::fd::FromRawFd;
    let (mut typed, mut seen) = (0, 0);
    // SAFETY: both descriptors are valid for writing, the other pointers may be null.
    let result = unsafe {
        libc::openpty(
            &raw mut typed,
            &raw mut seen,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    assert_eq!(result, 0, "a pseudo-terminal can be had");
    // SAFETY: both have just been opened and belong to nobody else.
    unsafe { (std::fs::File::from_raw_fd(seen), std::fs::File::from_raw_fd(typed)) }
}

fn settings(terminal: &std::fs::File) -> String {
    let stty = std::process::Command::new("stty").arg("-g").stdin(terminal.try_clone().unwrap()).output();
    String::from_utf8(stty.unwrap().stdout).unwrap()
}

#[test]
fn an_interactive_console_is_left_by_its_escape() {
    use std::os::unix::process::CommandExt;
    let kernel = echo_guest();
    let (seen, mut typed) = terminal();
    let before = settings(&seen);
    let mut command = staleline(&["run", "--kernel", path(kernel.path()), "--timeout", "60"]);
    command.stdin(seen.try_clone().unwrap()).stdout(seen.try_clone().unwrap()).stderr(Stdio::null());
    // SAFETY: the calls between fork and exec are async-signal-safe; they make the terminal the child's own.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let mut child = command.spawn().unwrap();
    let started = Instant::now();
    while settings(&seen) == before {
        assert!(started.elapsed() < Duration::from_secs(30), "raw mode never came");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Ctrl-C is the guest's in raw mode.
    typed.write_all(b"a\x03b").unwrap();
    let mut echo = [0; 3];
    typed.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"a\x03b");
    typed.write_all(b"\x01x").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(settings(&seen), before, "the terminal is as it was");
}

#[test]
fn a_second_processor_starts() {
    use staleline::engine::{EngineKind, Kick};
    use staleline::machine::{IommuSpec, MachineConfig};
    use staleline::session::{Cause, Output, Session, SessionConfig, Watch};
    // At 0x8000: mov dx, 0xf4; mov al, 5; out dx, al (16-bit code).
    let mut code = vec![0x48, 0xb8, 0xba, 0xf4, 0x00, 0xb0, 0x05, 0xee, 0xf4, 0x90];
    // mov [0x8000], rax; mov ecx, 0xfee00300; INIT and start-up (vector 8) to all but self; spin
    code.extend([0x48, 0x89, 0x04, 0x25, 0x00, 0x80, 0x00, 0x00]);
    code.extend([0xb9, 0x00, 0x03, 0xe0, 0xfe]);
    code.extend([0xc7, 0x01, 0x00, 0xc5, 0x0c, 0x00, 0xc7, 0x01, 0x08, 0xc6, 0x0c, 0x00]);
    code.extend(SPIN);
    let kernel = bare_kernel(&code);
    let config = SessionConfig {
        machine: MachineConfig {
            memory: 64 << 20,
            cpus: 2,
            seed: 1,
            devices: Vec::new(),
            cache: staleline::memory::CacheSpec::off(),
            iommu: IommuSpec::Off,
            confidential: None,
        },
        engine: EngineKind::Soft,
        kernel: kernel.path().to_owned(),
        initrd: Vec::new(),
        command_line: Some(String::new()),
        deadline: Some(1_000_000_000),
        work: None,
        watch: Watch::default(),
    };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut output = Output::new(Vec::new(), &mut stdout, &mut stderr);
    let outcome = Session::new(&config, Kick::default()).unwrap().run(None, &mut output).unwrap();
    assert_eq!(outcome.cause, Cause::DebugExit(5));
}
