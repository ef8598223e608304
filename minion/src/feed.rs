//! What the master says, carried to the parts that follow it.

use coracle_api::client::{Change, Received, Reflector};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Changes waiting for a part that is busy; then the watch waits, and the master cuts it off if that
/// takes long: the reflector lists again.
pub const QUEUE: usize = 64;

/// Carries every change to all `followers` until cancelled, or until one of them is gone.
pub async fn run<T: Received>(
    reflector: Reflector<T>,
    followers: Vec<mpsc::Sender<Change<T>>>,
    shutdown: CancellationToken,
) {
    run_synced(reflector, followers, watch::Sender::new(false), shutdown).await;
}

/// [`run`] that sets `synced` when the followers have been handed the first list.
pub async fn run_synced<T: Received>(
    mut reflector: Reflector<T>,
    followers: Vec<mpsc::Sender<Change<T>>>,
    synced: watch::Sender<bool>,
    shutdown: CancellationToken,
) {
    let following = async {
        loop {
            let change = reflector.next().await;
            if let Change::Interrupted(error) = &change {
                tracing::debug!(kind = T::row().plural, %error, "the watch is interrupted");
            }
            let listed = matches!(change, Change::Replaced(_));
            for follower in &followers {
                if follower.send(change.clone()).await.is_err() {
                    return;
                }
            }
            if listed {
                synced.send_if_modified(|synced| !std::mem::replace(synced, true));
            }
        }
    };
    // Cancel-safe: nothing is kept of what is under way.
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = following => {}
    }
}
