//! Entry point: read the command line, run the program it names until it fails or is told to stop.

use std::{env, io, process::ExitCode};

use coracle_example_images::{
    log,
    program::{Program, Refusal},
};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

fn main() -> ExitCode {
    let program = match Program::parse(env::args().collect(), &|name| env::var(name).ok()) {
        Ok(program) => program,
        Err(Refusal::Usage(text)) => {
            log::error(text);
            return ExitCode::from(2);
        }
        Err(Refusal::Environment(text)) => {
            log::error(text);
            return ExitCode::FAILURE;
        }
    };
    match run(program) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error(error);
            ExitCode::FAILURE
        }
    }
}

fn run(program: Program) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        // As process 1 of a container the program has no default signal actions: without handlers a stop would be ignored
        // until the engine loses patience. They are in place before anything that takes time.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // Whatever the program was doing is dropped: it acknowledges nothing that is not yet on disk.
        tokio::select! {
            outcome = program.run() => outcome,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        }
    });
    // A write to a slow disk must not hold up the exit.
    runtime.shutdown_background();
    outcome
}
