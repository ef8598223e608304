//! Reset takes what is the cluster's and nothing else.

use coracle_minion::{
    reset::{ResetConfig, ResetError, reset},
    runtime::{Runtime, labels},
};

use crate::bench::{Bench, with_engine};

#[tokio::test]
async fn reset_removes_what_is_the_clusters_and_nothing_else() {
    with_engine(async |b: &Bench| {
        with_engine(async |other: &Bench| {
            let infra = b.runtime.run_infra(&b.infra("u1")).await.unwrap();
            b.run("u1", "web", &infra, "sleep 1000").await;
            let foreign = other.runtime.run_infra(&other.infra("u1")).await.unwrap();
            let root = tempfile::tempdir().unwrap();
            let dir = root.path().join("minion");
            std::fs::create_dir_all(dir.join("pods/u1/volumes")).unwrap();
            std::fs::create_dir_all(dir.join("pods/u2")).unwrap();
            std::fs::write(dir.join("pods/u1/volumes/file"), "x").unwrap();
            let record = serde_json::json!({
                "clusterID": b.cluster, "node": "n", "docker": b.runtime.engine().socket(),
            });
            std::fs::write(dir.join("minion.json"), record.to_string()).unwrap();
            let config = |cluster_id: Option<&str>| ResetConfig {
                root_dir: dir.clone(),
                docker: None,
                cluster_id: cluster_id.map(str::to_owned),
            };

            let refused = reset(config(Some(&other.cluster))).await;
            assert!(matches!(refused, Err(ResetError::OtherCluster { .. })), "{refused:?}");

            let report = reset(config(None)).await.unwrap();
            assert_eq!((report.containers, report.networks, report.pod_dirs), (2, 1, 2));
            assert_eq!(report.images, 0, "the other cluster uses the infra image");
            assert!(!dir.exists());
            assert!(b.runtime.list().await.unwrap().is_empty());
            let left = other.runtime.list().await.unwrap();
            assert_eq!(left.iter().map(|c| &c.id).collect::<Vec<_>>(), [&foreign]);
            let network = format!("coracle-{}", other.cluster);
            let kept = b.runtime.engine().docker().inspect_network(&network, None).await.unwrap();
            assert_eq!(kept.labels.unwrap()[labels::CLUSTER], other.cluster);

            let again = reset(config(Some(&b.cluster))).await.unwrap();
            assert_eq!((again.containers, again.networks, again.pod_dirs), (0, 0, 0), "idempotent");
            assert_eq!(reset(config(None)).await.unwrap().cluster_id, None, "nothing is known any more");
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn reset_goes_on_where_the_engine_is_removing_already() {
    with_engine(async |b: &Bench| {
        let mut ids = Vec::new();
        for pod in ["u1", "u2", "u3", "u4"] {
            ids.push(b.runtime.run_infra(&b.infra(pod)).await.unwrap().0);
        }
        // As a minion that was stopped in the middle of it leaves them.
        let removals: Vec<_> =
            ids.iter().map(|id| std::process::Command::new("docker").args(["rm", "-f", id]).spawn().unwrap()).collect();
        let root = tempfile::tempdir().unwrap();
        let config =
            ResetConfig { root_dir: root.path().join("none"), docker: None, cluster_id: Some(b.cluster.clone()) };
        reset(config).await.unwrap();
        for mut removal in removals {
            removal.wait().unwrap();
        }
        assert!(b.runtime.list().await.unwrap().is_empty());
    })
    .await;
}
