//! The verbs of the modern grammar, one a file, and the one place that starts them. Those that
//! run servers are in [`crate::serve`].

mod api_resources;
mod apply;
mod backup;
mod completions;
mod cordon;
mod create;
mod delete;
mod describe;
mod drain;
mod events;
mod exec;
mod get;
mod logs;
mod rolling_update;
mod run;
mod scale;
mod schedule;
mod version;

use crate::{
    args::{Cli, Command, StoreCommand},
    failure::Outcome,
    serve,
    session::{DEFAULT_MASTER, Session},
};

/// What every client verb needs.
pub(crate) struct Context {
    pub(crate) session: Session,
    pub(crate) namespace: String,
}

/// Whether the command runs a server, which wants all cores.
pub(crate) fn is_server(command: &Command) -> bool {
    matches!(command, Command::Up(_) | Command::Master(_) | Command::Minion(_))
}

/// Carries out one command.
pub(crate) async fn run(cli: Cli) -> Outcome {
    // An empty KUBERNETES_MASTER is as good as none.
    let server = if cli.master.is_empty() { DEFAULT_MASTER.to_owned() } else { cli.master };
    match cli.command {
        Command::Up(args) => return Ok(serve::up(args).await?),
        Command::Master(args) => return Ok(serve::master(args).await?),
        Command::Minion(args) => return Ok(serve::minion(args, &server).await?),
        Command::Reset(args) => return Ok(serve::reset(args).await?),
        Command::Restore(args) => return Ok(serve::restore(args).await?),
        Command::Store(StoreCommand::Check(args)) => return Ok(serve::check(args).await?),
        Command::Completions { shell } => return completions::run(shell),
        Command::ApiResources => return api_resources::run(),
        _ => {}
    }
    let context = Context { session: Session::new(&server)?, namespace: cli.namespace };
    match cli.command {
        Command::Get(args) => get::run(&context, args).await,
        Command::Describe(args) => describe::run(&context, args).await,
        Command::Logs(args) => logs::run(&context, args).await,
        Command::Exec(args) => exec::run(&context, args).await,
        Command::Apply(args) => apply::run(&context, args).await,
        Command::Create(args) => create::run(&context, args).await,
        Command::Delete(args) => delete::run(&context, args).await,
        Command::Scale(args) => scale::run(&context, args).await,
        Command::RollingUpdate(args) => rolling_update::run(&context, args).await,
        Command::Cordon(args) => cordon::cordon(&context, args).await,
        Command::Uncordon(args) => cordon::uncordon(&context, args).await,
        Command::Drain(args) => drain::run(&context, args).await,
        Command::Schedule(args) => schedule::run(&context, args).await,
        Command::Events(args) => events::run(&context, args).await,
        Command::Run(args) => run::run(&context, args).await,
        Command::Version => version::run(&context).await,
        Command::Backup(args) => backup::run(&context, args).await,
        Command::Up(_)
        | Command::Master(_)
        | Command::Minion(_)
        | Command::Reset(_)
        | Command::Restore(_)
        | Command::Store(_)
        | Command::Completions { .. }
        | Command::ApiResources => Ok(()),
    }
}
