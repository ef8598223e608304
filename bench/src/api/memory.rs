//! What a pod costs in memory, and how long a master takes to start with many.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{report::Report, subject::Subject, usage::Usage};

/// How long a server gets to come to rest.
const SETTLE_MAX: Duration = Duration::from_secs(20);
/// At rest it uses less than this in a period.
const PERIOD: Duration = Duration::from_secs(1);
const REST: Duration = Duration::from_millis(30);

/// Waits until the server does nearly nothing, or for a while. Its resident bytes then.
pub(super) async fn settled(subject: &Subject) -> Result<u64> {
    let deadline = Instant::now() + SETTLE_MAX;
    while Instant::now() < deadline {
        let before = Usage::now(subject)?;
        tokio::time::sleep(PERIOD).await;
        if before.until(subject)?.server() <= REST {
            break;
        }
    }
    subject.resident()
}

/// Says what pods cost: `empty` and `full` are resident bytes without and with them.
pub(super) fn tell(report: &mut Report, pods: u64, how: &str, empty: u64, full: u64) {
    report.fact(format!("resident with {pods} pods, {how}"), full as f64 / 1e6, "MB");
    let each = full.saturating_sub(empty) as f64 / pods.max(1) as f64;
    report.fact(format!("resident for each of {pods} pods, {how}"), each / 1e3, "KB");
}
