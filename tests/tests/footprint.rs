//! Small enough to forget, fast enough that nobody waits: the bounds that the README states.

use std::time::Duration;

use anyhow::Result;
use coracle_tests::{Cluster, coracle, measure};

#[test]
fn it_is_ready_at_once_and_the_first_pod_runs_soon() -> Result<()> {
    // The better of three: the bound is for the program, not for what else the machine does.
    let mut best = (Duration::MAX, Duration::MAX);
    for _ in 0..3 {
        let (ready, pod) = measure::start_times()?;
        best = (best.0.min(ready), best.1.min(pod));
    }
    assert!(best.0 <= Duration::from_millis(300), "ready after {:?}", best.0);
    assert!(best.1 <= Duration::from_millis(1500), "first pod after {:?}", best.1);
    Ok(())
}

#[test]
fn idle_it_costs_next_to_nothing() -> Result<()> {
    let cluster = Cluster::start()?;
    let pid = cluster.pid().unwrap_or_default();
    let idle = measure::idle_cost(pid, Duration::from_secs(60))?;
    assert!(idle.resident_bytes <= 40 << 20, "{} MB resident", idle.resident_bytes >> 20);
    assert!(idle.share < 0.005, "{:.2} % of a core: {idle:?}", idle.share * 100.0);
    Ok(())
}

#[test]
fn the_binary_is_small() -> Result<()> {
    let size = std::fs::metadata(coracle())?.len();
    assert!(size <= 25 << 20, "{} is {} MB", coracle().display(), size >> 20);
    Ok(())
}

#[test]
fn a_killed_container_is_back_about_as_fast_as_docker_itself_could() -> Result<()> {
    let (ours, dockers) = measure::healing(20)?;
    let (ours, dockers) = (measure::median(&ours), measure::median(&dockers));
    assert!(ours.as_secs_f64() <= 1.25 * dockers.as_secs_f64(), "ours {ours:?}, Docker's {dockers:?}");
    Ok(())
}
