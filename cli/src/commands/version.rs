//! `coracle version`: of the client and of the master.

use super::Context;
use crate::{failure::Outcome, json::text, output};

pub(crate) async fn run(context: &Context) -> Outcome {
    output::line(&format!("Client: Coracle v{}", env!("CARGO_PKG_VERSION")))?;
    let version = context.session.get("/version").await?;
    output::line(&format!("Server: Coracle {} at {}", text(&version, "/gitVersion"), context.session.server()))
}
