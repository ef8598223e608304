//! TLS, certificates and users.

use etcd_client::{Client, Permission, PermissionType};

use super::*;
use crate::contract::keeps_its_promises;

async fn refused(config: EtcdConfig, part: &str) {
    match EtcdStore::open(config).await {
        Err(error @ StoreError::Unopenable { .. }) => {
            assert!(error.to_string().contains(part), "{error} names {part:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn tls_with_certificates_of_clients() {
    let cluster = Cluster::start_with(1, &Options { tls: true, ..Options::default() }).unwrap();
    let files = cluster.certificates().unwrap();
    let url = format!("etcds://{}/tls", cluster.endpoints()[0]);
    let (certificate, key) = files.client();
    let access = |with: bool| EtcdAccess {
        ca: Some(files.ca()),
        certificate: with.then(|| certificate.clone()),
        key: with.then(|| key.clone()),
        ..EtcdAccess::default()
    };
    let store = EtcdStore::open(EtcdConfig::parse(&url, access(true)).unwrap()).await.unwrap();
    keeps_its_promises(&store).await;

    refused(EtcdConfig::parse(&url, access(false)).unwrap(), "etcds://").await;
    let missing = EtcdAccess { ca: Some("/no/such.pem".into()), ..EtcdAccess::default() };
    refused(EtcdConfig::parse(&url, missing).unwrap(), "/no/such.pem can't be read").await;
    let plain = url.replace("etcds", "etcd");
    refused(EtcdConfig::parse(&plain, EtcdAccess::default()).unwrap(), "etcd://").await;
}

#[tokio::test]
async fn users_and_passwords() {
    // Tokens that expire while the test runs.
    let options = Options { arguments: vec!["--auth-token-ttl=1".to_owned()], ..Options::default() };
    let cluster = Cluster::start_with(1, &options).unwrap();
    let mut root = Client::connect(cluster.direct_endpoints(), None).await.unwrap();
    root.role_add("masters").await.unwrap();
    let all = Permission::new(PermissionType::Readwrite, "/users/").with_prefix();
    root.role_grant_permission("masters", all).await.unwrap();
    for (user, role) in [("root", "root"), ("coracle", "masters")] {
        root.user_add(user, "geheim", None).await.unwrap();
        root.user_grant_role(user, role).await.unwrap();
    }
    root.auth_enable().await.unwrap();
    let config = |prefix: &str, login: Option<&str>| {
        let access = EtcdAccess {
            user: login.map(|_| "coracle".to_owned()),
            password: login.map(str::to_owned),
            ..EtcdAccess::default()
        };
        EtcdConfig::parse(&format!("etcd://{}{prefix}", cluster.endpoints()[0]), access).unwrap()
    };
    refused(config("/users", None), "asks for a user").await;
    refused(config("/users", Some("falsch")), "password is wrong").await;
    refused(config("/others", Some("geheim")), "grant its role").await;
    let store = EtcdStore::open(config("/users", Some("geheim"))).await.unwrap();
    let (_, mut updates) = store.load().await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(*store.health().borrow(), Health::Good);
    // A watch that was begun under a token that expired since is taken up with a new one.
    let direct = EtcdConfig { endpoints: cluster.direct_endpoints(), ..config("/users", Some("geheim")) };
    let other = EtcdStore::open(direct).await.unwrap();
    cluster.cut_clients(0);
    let outcome = other.commit(vec![contract::put("a", "", Expect::Absent)]).await.remove(0);
    assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    assert!(matches!(timeout(PATIENCE, updates.recv()).await, Ok(Some(Update::Changes(_)))));
    store.commit(vec![contract::delete("a", Expect::Any)]).await;
    keeps_its_promises(&store).await;
}
