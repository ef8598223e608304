//! Clients that compare and set, and watchers, while masters die: what they saw adds up.

use std::time::Duration;

use anyhow::{Context, Result};
use coracle_tests::{eventually, master::Master, random::pass, registers::Registers};

/// Waits until `count` more writes were acknowledged than before.
fn progress(registers: &Registers, count: usize) -> Result<()> {
    let before = registers.acknowledged();
    eventually("writes are acknowledged", || (registers.acknowledged() >= before + count).then_some(()))
}

#[test]
fn a_master_that_is_killed_again_and_again_keeps_every_promise() -> Result<()> {
    let mut master = Master::start(&[])?;
    let registers = Registers::create(vec![master.address], 4)?;
    let history = registers.record(6, 3, |registers| {
        for _ in 0..8 {
            progress(registers, 40)?;
            master.kill()?;
            master.launch()?;
            master.wait_ready()?;
        }
        progress(registers, 40)
    })?;
    history.check().with_context(|| master.log())
}

#[test]
fn a_master_that_stands_still_for_a_while_loses_no_watcher_and_no_write() -> Result<()> {
    let master = Master::start(&[])?;
    let registers = Registers::create(vec![master.address], 4)?;
    let history = registers.record(4, 2, |registers| {
        for _ in 0..3 {
            progress(registers, 40)?;
            master.signal("STOP")?;
            pass(Duration::from_millis(700));
            master.signal("CONT")?;
        }
        progress(registers, 40)
    })?;
    assert_eq!(history.watches.len(), 2, "nobody had to list again");
    history.check()
}
