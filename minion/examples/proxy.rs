//! A service proxy alone, as a minion runs it, in the network namespace that it is started in:
//!
//! ```text
//! proxy MASTER_URL MODE CLUSTER_ID SERVICE_CIDR POD_CIDR
//! ```
//!
//! The pod bridge `cor-CLUSTER_ID` must be there. Ends when its input does, and then removes what it
//! set. For measurements.

// The example prints for whoever started it.
#![allow(clippy::print_stdout)]

use std::error::Error;

use coracle_api::client::Client;
use coracle_minion::proxy::{self, Proxy, ProxyConfig};
use tokio::io::AsyncReadExt;

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [master, mode, cluster_id, service_cidr, pod_cidr] = arguments.as_slice() else {
        return Err("expected MASTER_URL MODE CLUSTER_ID SERVICE_CIDR POD_CIDR".into());
    };
    let config = ProxyConfig {
        cluster_id: cluster_id.clone(),
        node: "n1".into(),
        service_cidr: service_cidr.parse()?,
        pods_cidr: pod_cidr.parse()?,
        pod_cidr: pod_cidr.parse()?,
        external: Vec::new(),
        mode: mode.parse()?,
    };
    let proxy = Proxy::start(&Client::new(master)?, config);
    proxy.ready().await;
    println!("ready");
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    proxy.shutdown().await;
    proxy::remove(cluster_id).await?;
    Ok(())
}
