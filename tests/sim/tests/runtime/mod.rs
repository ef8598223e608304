//! The runtime of a seed: one thread, time that stands still while anyone has something to do, and, where Tokio
//! is built with `--cfg tokio_unstable`, its own choices from the seed as well.

use std::{sync::mpsc, time::Duration};

use coracle_test_sim::{Options, Outcome};
use tokio::runtime::Builder;

/// A seed takes a fraction of a second. One that takes this long stands still in simulated time: a task that
/// always has something to do and never waits.
const STANDSTILL: Duration = Duration::from_secs(120);

/// Runs a seed.
pub(crate) fn run(options: Options) -> Outcome {
    let seed = options.seed;
    let (ended, ends) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if ends.recv_timeout(STANDSTILL) == Err(mpsc::RecvTimeoutError::Timeout) {
            let text = format!(
                "seed {seed} FAILS: simulated time stands still\nwhere it does: make sim SEED={seed}, and a debugger"
            );
            drop(std::io::Write::write_all(&mut std::io::stderr(), format!("{text}\n").as_bytes()));
            std::process::exit(1);
        }
    });
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    let runtime = builder.build().expect("a runtime without I/O needs nothing from the system");
    let outcome = runtime.block_on(coracle_test_sim::run(options));
    drop((runtime, ended));
    outcome
}
