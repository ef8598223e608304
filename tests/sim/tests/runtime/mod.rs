//! The runtime of a seed: one thread, time that stands still while anyone has something to do, and, where Tokio
//! is built with `--cfg tokio_unstable`, its own choices from the seed as well.

use coracle_test_sim::{Options, Outcome};
use tokio::runtime::Builder;

/// Runs a seed.
pub(crate) fn run(options: Options) -> Outcome {
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&options.seed.to_le_bytes()));
    let runtime = builder.build().expect("a runtime without I/O needs nothing from the system");
    runtime.block_on(coracle_test_sim::run(options))
}
