//! The accept loop: one task per connection, a bounded number of them.

use std::{future::Future, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

/// Out of file descriptors is the usual reason for a failed accept; it passes when some connection ends.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(50);

/// Hands each connection to a task of its own, until dropped; the tasks end with it. Beyond `connections_max` at a time,
/// further connections wait in the kernel's queue. A panic in a task ends that connection only.
pub async fn serve<F>(listener: TcpListener, connections_max: usize, handle: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        // Both arms are cancel safe: a connection that was not returned stays in the queue, a result in the set.
        tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < connections_max => match accepted {
                Ok((stream, _)) => {
                    // The messages are small and someone waits for each of them. A stream that refuses is as good as gone.
                    let _ = stream.set_nodelay(true);
                    connections.spawn(handle(stream));
                }
                Err(_) => sleep(PAUSE_AFTER_ERROR).await,
            }
        }
    }
}
