//! The master: keeps the history of builds and hands builds to slaves.

mod history;
mod home;
mod session;
mod slaves;
mod web;

use std::{io, net::Ipv4Addr, path::Path, sync::Arc};

use tokio::net::TcpListener;

pub use self::home::Home;
use self::slaves::Slaves;
use super::{HTTP_PORT, SLAVE_PORT, protocol::Pace};
use crate::{accept, failure::about, http, log};

const SLAVES_MAX: usize = 1024;

/// A master with its data directory open.
#[derive(Debug)]
pub struct Master {
    home: Arc<Home>,
    slaves: Arc<Slaves>,
    pace: Pace,
}

/// Runs the master on its ports, with its data under `home`, until dropped.
pub async fn run(home: &Path) -> io::Result<()> {
    let home = Home::open(home)?;
    let pages = bind(HTTP_PORT).await?;
    let slaves = bind(SLAVE_PORT).await?;
    let state = home.current();
    log::info(format_args!(
        "jenkins: started, instance {}, boot {}, {} builds in {}; HTTP on {HTTP_PORT}, slaves on {SLAVE_PORT}",
        state.instance,
        state.boots,
        state.builds.len(),
        home.path().display(),
    ));
    Master::new(home, Pace::default()).serve(pages, slaves).await;
    Ok(())
}

impl Master {
    /// A master without slaves.
    pub fn new(home: Home, pace: Pace) -> Self {
        Self { home: Arc::new(home), slaves: Arc::default(), pace }
    }

    /// Serves pages on one listener and slaves on the other, until dropped.
    pub async fn serve(&self, pages: TcpListener, slaves: TcpListener) {
        let handle = {
            let (home, slaves) = (Arc::clone(&self.home), Arc::clone(&self.slaves));
            move |request| web::answer(request, Arc::clone(&home), Arc::clone(&slaves))
        };
        let attend = |stream| session::attend(stream, Arc::clone(&self.slaves), self.pace);
        tokio::join!(http::serve(pages, handle), accept::serve(slaves, SLAVES_MAX, attend));
    }
}

async fn bind(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await.map_err(about(format_args!("port {port}")))
}
