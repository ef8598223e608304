//! `coracle completions`: a script for the shell.

use clap::CommandFactory;

use crate::{args::Cli, failure::Outcome, output};

pub(crate) fn run(shell: clap_complete::Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "coracle", &mut script);
    output::write_bytes(&script)
}
