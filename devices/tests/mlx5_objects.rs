//! Queries and modifications that the recorded traces do not hold.

use devices::mlx5::Mlx5Config;
use devices::mlx5::layout::commands::{
    CONTEXT, OBJECT, PAGES, access_register, header, modify_cq, rmp, special_contexts,
};
use devices::mlx5::layout::contexts::{cqc, rmpc, wq, xrc_srqc};
use driver_model::mlx5_model::{Driver, EqParam, PAGE, command, fill_pages, get, set};

const BAD_PARAMETER: u8 = 0x03;
const BAD_RESOURCE: u8 = 0x05;

/// A device with UAR 16, event queue 1, completion queue 1, XRC domain 1 and protection domain 1.
fn ready() -> Driver {
    let mut driver = Driver::new(Mlx5Config::default());
    driver.bring_up();
    for opcode in [0x802, 0x80e, 0x800] {
        driver.succeed(&command(opcode, 0, 16), 16);
    }
    driver.create_eq(280, EqParam { log_size: 4, vector: 0, uar: 16, mask: 0 });
    let buffer = driver.allocate(1);
    let mut input = command(0x400, 0, 280);
    for (field, value) in
        [(cqc::LOG_CQ_SIZE, 4), (cqc::C_EQN, 1), (cqc::UAR_PAGE, 16), (cqc::DBR_ADDR, buffer + 2048)]
    {
        set(&mut input, CONTEXT, field, value);
    }
    fill_pages(&mut input[PAGES..], buffer, 1);
    assert_eq!(OBJECT.get(&driver.succeed(&input, 16)), 1);
    driver
}

fn query(driver: &mut Driver, opcode: u16, number: u64) -> Vec<u8> {
    let mut input = command(opcode, 0, 16);
    OBJECT.set(&mut input, number);
    driver.succeed(&input, 280)
}

#[test]
fn moderation_of_a_completion_queue_is_modified_alone() {
    let mut driver = ready();
    let mut input = command(0x403, 0, 272);
    OBJECT.set(&mut input, 1);
    set(&mut input, CONTEXT, cqc::CQ_PERIOD, 16);
    set(&mut input, CONTEXT, cqc::CQ_MAX_COUNT, 32);
    modify_cq::FIELD_SELECT.set(&mut input, 1 << 0);
    driver.succeed(&input, 16);
    let out = query(&mut driver, 0x402, 1);
    assert_eq!((get(&out, CONTEXT, cqc::CQ_PERIOD), get(&out, CONTEXT, cqc::CQ_MAX_COUNT)), (16, 0));
    assert_eq!(get(&out, CONTEXT, cqc::LOG_CQ_SIZE), 4);
    assert_ne!(out[PAGES..PAGES + 8], [0; 8], "the page list is answered");
    header::OP_MOD.set(&mut input, 1);
    driver.fail(&input, 16, BAD_PARAMETER);
}

#[test]
fn a_completion_queue_with_a_record_nowhere_is_not_armed() {
    let mut driver = ready();
    let buffer = driver.allocate(1);
    let mut input = command(0x400, 0, 280);
    for (field, value) in [(cqc::C_EQN, 1), (cqc::UAR_PAGE, 16), (cqc::DBR_ADDR, 1 << 40)] {
        set(&mut input, CONTEXT, field, value);
    }
    fill_pages(&mut input[PAGES..], buffer, 1);
    assert_eq!(OBJECT.get(&driver.succeed(&input, 16)), 2);
    for (cqn, state) in [(1u32, 0x9), (2, 0xa)] {
        // The doorbell as two halves, as a 32-bit kernel writes it.
        driver.write32(16 * PAGE + 0x20, 0);
        driver.write32(16 * PAGE + 0x24, cqn);
        let out = query(&mut driver, 0x402, cqn.into());
        assert_eq!(get(&out, CONTEXT, cqc::ST), state, "queue {cqn}");
    }
}

#[test]
fn limits_of_shared_receive_queues_are_kept() {
    let mut driver = ready();
    let buffer = driver.allocate(1);
    let mut xrc = command(0x705, 0, 280);
    for (field, value) in [(xrc_srqc::PD, 1), (xrc_srqc::CQN, 1), (xrc_srqc::XRCD, 1)] {
        set(&mut xrc, CONTEXT, field, value);
    }
    fill_pages(&mut xrc[PAGES..], buffer, 1);
    assert_eq!(OBJECT.get(&driver.succeed(&xrc, 16)), 1);
    let mut pool = command(0x90c, 0, 280);
    set(&mut pool, rmp::RMPC + rmpc::WQ as usize, wq::LOG_WQ_STRIDE, 5);
    set(&mut pool, rmp::RMPC + rmpc::WQ as usize, wq::PD, 1);
    fill_pages(&mut pool[PAGES..], buffer, 1);
    assert_eq!(OBJECT.get(&driver.succeed(&pool, 16)), 2);

    let mut arm = command(0x708, 0, 16);
    OBJECT.set(&mut arm, 1);
    arm[14..16].copy_from_slice(&7u16.to_be_bytes());
    driver.succeed(&arm, 16);
    assert_eq!(get(&query(&mut driver, 0x707, 1), CONTEXT, xrc_srqc::LWM), 7);
    OBJECT.set(&mut arm, 2);
    driver.fail(&arm, 16, BAD_RESOURCE);

    let limit = wq::LWM.within(rmpc::WQ);
    let mut modify = command(0x90d, 0, 272);
    OBJECT.set(&mut modify, 2);
    rmp::BITMASK.set(&mut modify, 1);
    set(&mut modify, rmp::RMPC, limit, 5);
    driver.succeed(&modify, 16);
    let out = query(&mut driver, 0x90f, 2);
    assert_eq!(get(&out, rmp::RMPC, limit), 5);
    assert_eq!(get(&out, rmp::RMPC, rmpc::STATE), 1, "ready");
    rmp::BITMASK.set(&mut modify, 2);
    driver.fail(&modify, 16, BAD_PARAMETER);

    let destroy = |opcode, number| {
        let mut input = command(opcode, 0, 16);
        OBJECT.set(&mut input, number);
        input
    };
    driver.fail(&destroy(0x706, 2), 16, BAD_RESOURCE);
    driver.succeed(&destroy(0x706, 1), 16);
    driver.succeed(&destroy(0x90e, 2), 16);
}

#[test]
fn the_node_description_is_the_only_register_to_write() {
    let mut driver = ready();
    let mut input = command(0x805, 0, 80);
    access_register::REGISTER_ID.set(&mut input, 0x6001);
    input[access_register::DATA..][..5].copy_from_slice(b"guest");
    driver.succeed(&input, 80);
    header::OP_MOD.set(&mut input, 1);
    let out = driver.succeed(&input, 80);
    assert_eq!(&out[access_register::DATA..][..6], b"guest\0");
    for (id, op_mod) in [(0x5004, 0), (0x1234, 1), (0x6001, 2)] {
        header::OP_MOD.set(&mut input, op_mod);
        access_register::REGISTER_ID.set(&mut input, id);
        driver.fail(&input, 80, BAD_PARAMETER);
    }
}

#[test]
fn special_contexts_name_the_key_that_ends_a_scatter_list() {
    let mut driver = ready();
    let out = driver.succeed(&command(0x203, 0, 16), 32);
    assert_eq!(special_contexts::TERMINATE_SCATTER_LIST_MKEY.get(&out), 0x100);
}

#[test]
fn datagrams_of_other_classes_are_refused() {
    let mut driver = ready();
    let mut input = command(0x50d, 3, 272);
    input[CONTEXT..CONTEXT + 4].copy_from_slice(&[1, 0x81, 1, 1]);
    driver.fail(&input, 272, BAD_PARAMETER);
    input[CONTEXT..CONTEXT + 4].copy_from_slice(&[1, 4, 1, 1]);
    input[CONTEXT + 17] = 0x77;
    let out = driver.succeed(&input, 272);
    assert_eq!(out[CONTEXT + 4..CONTEXT + 6], [0, 0x0c], "unsupported attribute");
}
