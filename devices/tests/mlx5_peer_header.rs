//! The peer's protocol as guest programs have it (`guest-images/programs/rdma-peer.h`), compiled, and as the device
//! has it.

use devices::mlx5::peer::pattern::{PER_REPETITION, PER_WORD, Pattern};
use devices::mlx5::peer::plan::PLAN_SEED;
use devices::mlx5::peer::protocol::{
    ANSWER_SIZE, FIRST_QPN, LID, MAX_DELAY, MAX_LENGTH, MAX_ORDERS, MAX_REPEAT, ORDER_SIZE, QPN_COUNT,
    Status, answer, op, order,
};
use std::env;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// Constants and offsets: the C expression, and the device's value.
fn facts() -> Vec<(&'static str, u64)> {
    let offset = |value: usize| value as u64;
    vec![
        ("PEER_LID", LID.into()),
        ("PEER_FIRST_QPN", FIRST_QPN.into()),
        ("PEER_QPN_COUNT", QPN_COUNT.into()),
        ("PEER_MAX_LENGTH", MAX_LENGTH),
        ("PEER_MAX_REPEAT", MAX_REPEAT.into()),
        ("PEER_MAX_DELAY", MAX_DELAY),
        ("PEER_MAX_ORDERS", offset(MAX_ORDERS)),
        ("PEER_PER_WORD", PER_WORD),
        ("PEER_PER_REPETITION", PER_REPETITION),
        ("PEER_PLAN_SEED", PLAN_SEED),
        ("PEER_WRITE", op::WRITE.into()),
        ("PEER_READ", op::READ.into()),
        ("PEER_CHECK", op::CHECK.into()),
        ("PEER_COMPARE_SWAP", op::COMPARE_SWAP.into()),
        ("PEER_FETCH_ADD", op::FETCH_ADD.into()),
        ("PEER_DONE", Status::Done as u64),
        ("PEER_MISMATCH", Status::Mismatch as u64),
        ("PEER_BAD_SIZE", Status::BadSize as u64),
        ("PEER_BAD_OPERATION", Status::BadOperation as u64),
        ("PEER_BAD_LENGTH", Status::BadLength as u64),
        ("PEER_BAD_REPEAT", Status::BadRepeat as u64),
        ("PEER_BAD_DELAY", Status::BadDelay as u64),
        ("PEER_BAD_RESERVED", Status::BadReserved as u64),
        ("sizeof(struct peer_order)", offset(ORDER_SIZE)),
        ("offsetof(struct peer_order, op)", offset(order::OP)),
        ("offsetof(struct peer_order, rkey)", offset(order::RKEY)),
        ("offsetof(struct peer_order, address)", offset(order::ADDRESS)),
        ("offsetof(struct peer_order, length)", offset(order::LENGTH)),
        ("offsetof(struct peer_order, operand)", offset(order::OPERAND)),
        ("offsetof(struct peer_order, swap)", offset(order::SWAP)),
        ("offsetof(struct peer_order, delay)", offset(order::DELAY)),
        ("offsetof(struct peer_order, repeat)", offset(order::REPEAT)),
        ("offsetof(struct peer_order, reserved)", offset(order::RESERVED)),
        ("offsetof(struct peer_order, cookie)", offset(order::COOKIE)),
        ("sizeof(struct peer_answer)", offset(ANSWER_SIZE)),
        ("offsetof(struct peer_answer, status)", offset(answer::STATUS)),
        ("offsetof(struct peer_answer, repetitions)", offset(answer::REPETITIONS)),
        ("offsetof(struct peer_answer, old)", offset(answer::OLD)),
        ("offsetof(struct peer_answer, cookie)", offset(answer::COOKIE)),
        ("offsetof(struct peer_answer, time)", offset(answer::TIME)),
        ("offsetof(struct peer_answer, digest)", offset(answer::DIGEST)),
        ("offsetof(struct peer_answer, offset)", offset(answer::OFFSET)),
        ("offsetof(struct peer_answer, found)", offset(answer::FOUND)),
        ("offsetof(struct peer_answer, expected)", offset(answer::EXPECTED)),
    ]
}

/// Seeds and repetitions whose patterns are compared.
const PATTERNS: [(u64, u32); 4] = [(0, 0), (PLAN_SEED, 1), (u64::MAX, 77), (0x8000_0000_0000_0001, u32::MAX)];
const PATTERN_LEN: u64 = 1003;

const HEADER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-images/programs/rdma-peer.h");

/// Compiles and runs `main` with the header; returns what it prints.
fn run_c(main: &str) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (folder.join("rdma-peer-facts.c"), folder.join("rdma-peer-facts"));
    let text = format!(
        "#include <stddef.h>\n#include <stdio.h>\n#include \"{HEADER}\"\nint main(void)\n{{\n{main}}}\n"
    );
    std::fs::write(&source, text).unwrap();
    let cc = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let compiled = Command::new(cc)
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(&source)
        .status();
    assert!(compiled.expect("a C compiler").success());
    let output = Command::new(&program).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_header_and_the_device_agree() {
    let mut main = String::new();
    let mut expected = String::new();
    for (expression, value) in facts() {
        writeln!(main, "\tprintf(\"%s %llu\\n\", \"{expression}\", (unsigned long long)({expression}));")
            .unwrap();
        writeln!(expected, "{expression} {value}").unwrap();
    }
    for (seed, repetition) in PATTERNS {
        writeln!(
            main,
            "\tfor (uint64_t i = 0; i < {PATTERN_LEN}; i++)\n\t\tprintf(\"%02x\", peer_pattern_byte({seed}ull, {repetition}u, i));\n\
             \tprintf(\" %llu\\n\", (unsigned long long)peer_pattern_repetition({seed}ull, 9, peer_pattern_word({seed}ull, {repetition}u, 9)));"
        )
        .unwrap();
        for byte in (Pattern { seed, repetition }).bytes(0).take(PATTERN_LEN as usize) {
            write!(expected, "{byte:02x}").unwrap();
        }
        writeln!(expected, " {repetition}").unwrap();
    }
    let found = run_c(&main);
    for (found, expected) in found.lines().zip(expected.lines()) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn every_constant_of_the_header_is_compared() {
    let header = std::fs::read_to_string(HEADER).unwrap();
    let facts = facts();
    let mut compared = 0;
    for word in header.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        if word.starts_with("PEER_") {
            assert!(facts.iter().any(|(name, _)| *name == word), "{word}");
            compared += 1;
        }
    }
    assert!(compared >= 23, "{compared}");
}
