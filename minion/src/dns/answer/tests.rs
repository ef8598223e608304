use std::collections::BTreeSet;

use coracle_api::client::Change;
use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use super::{super::zone::Update, *};

fn site() -> Site {
    Site {
        domain: "cluster.local".into(),
        service_cidr: "10.0.0.0/16".parse().unwrap(),
        pods_cidr: "10.244.0.0/14".parse().unwrap(),
    }
}

fn object<T: serde::de::DeserializeOwned>(namespace: &str, name: &str, rest: Value) -> T {
    let mut object = json!({"metadata": {"namespace": namespace, "name": name}});
    object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    serde_json::from_value(object).unwrap()
}

fn apply(zone: &mut Zone, update: Option<Update>) {
    zone.apply(&mut update.unwrap());
}

fn service(zone: &mut Zone, namespace: &str, name: &str, spec: Value) {
    let service = object(namespace, name, json!({"spec": spec}));
    apply(zone, Update::of_services(Change::applied(service)));
}

fn endpoints(zone: &mut Zone, namespace: &str, name: &str, subsets: Value) {
    let endpoints = object(namespace, name, json!({"subsets": subsets}));
    apply(zone, Update::of_endpoints(Change::applied(endpoints)));
}

fn empty() -> Zone {
    let mut zone = Zone::new(site());
    apply(&mut zone, Update::of_services(Change::replaced(vec![])));
    apply(&mut zone, Update::of_endpoints(Change::replaced(vec![])));
    zone
}

/// A portal, a headless service with two ready endpoints of three, and aliases.
fn zone() -> Zone {
    let mut zone = empty();
    let ports = json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    service(&mut zone, "shop", "web", json!({"clusterIP": "10.0.0.5", "ports": ports}));
    let backends = json!([{"addresses": [{"ip": "10.244.0.9"}], "ports": [{"name": "http", "port": 8080}]}]);
    endpoints(&mut zone, "shop", "web", backends);
    service(&mut zone, "shop", "db", json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}));
    let members = json!([{
        "addresses": [{"ip": "10.244.0.2", "hostname": "db-0"}, {"ip": "10.244.1.3"}],
        "notReadyAddresses": [{"ip": "10.244.1.4", "hostname": "db-2"}],
        "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
    }]);
    endpoints(&mut zone, "shop", "db", members);
    let alias = |name: &str| json!({"type": "ExternalName", "externalName": name});
    service(&mut zone, "shop", "elsewhere", alias("www.example.com"));
    service(&mut zone, "shop", "inside", alias("web.shop.svc.cluster.local"));
    service(&mut zone, "shop", "nowhere", alias("none.shop.svc.cluster.local."));
    service(&mut zone, "shop", "circle", alias("circle.shop.svc.cluster.local"));
    zone
}

fn ask(zone: &Zone, name: &str, kind: RecordType) -> Answer {
    let question = Query::query(Name::from_ascii(name).unwrap(), kind);
    answer(zone, &question, &mut StdRng::seed_from_u64(7))
}

/// `TYPE data`, sorted.
fn texts(records: &[Record]) -> Vec<String> {
    let mut texts: Vec<_> = records.iter().map(|r| format!("{} {}", r.record_type(), r.data)).collect();
    texts.sort();
    texts
}

fn check(name: &str, kind: RecordType, code: ResponseCode, expected: &[&str]) {
    let answer = ask(&zone(), name, kind);
    let found = (answer.code, texts(&answer.answers));
    assert_eq!(found, (code, expected.iter().map(ToString::to_string).collect()), "{name} {kind}");
    assert!(answer.authoritative);
    assert_eq!(answer.authorities.len(), usize::from(expected.is_empty()), "a SOA says that there is nothing: {name}");
    for record in answer.answers.iter().chain(&answer.authorities) {
        assert_eq!(record.ttl, TTL);
    }
}

use RecordType::{AAAA, ANY, CNAME as Cname, PTR as Ptr, SOA as Soa, SRV as Srv, TXT as Txt};
use ResponseCode::{NXDomain, NoError};
const V4: RecordType = RecordType::A;

#[test]
fn a_service_has_its_address_and_nothing_of_other_types() {
    check("web.shop.svc.cluster.local.", V4, NoError, &["A 10.0.0.5"]);
    check("web.shop.svc.cluster.local.", ANY, NoError, &["A 10.0.0.5"]);
    check("web.shop.svc.cluster.local.", AAAA, NoError, &[]);
    check("web.shop.svc.cluster.local.", Txt, NoError, &[]);
}

#[test]
fn what_does_not_exist_has_no_name() {
    for name in [
        "none.shop.svc.cluster.local.",
        "web.none.svc.cluster.local.",
        "none.svc.cluster.local.",
        "x.web.shop.svc.cluster.local.",
        "a.b.c.web.shop.svc.cluster.local.",
        "www.example.com.shop.svc.cluster.local.",
        "web.shop.cluster.local.",
        "svc.svc.cluster.local.",
    ] {
        check(name, V4, NXDomain, &[]);
        check(name, AAAA, NXDomain, &[]);
    }
}

#[test]
fn what_has_names_below_it_exists() {
    for name in ["cluster.local.", "svc.cluster.local.", "pod.cluster.local.", "shop.svc.cluster.local."] {
        check(name, V4, NoError, &[]);
    }
    check("_tcp.web.shop.svc.cluster.local.", V4, NoError, &[]);
    check("_sctp.web.shop.svc.cluster.local.", V4, NXDomain, &[]);
    check("dns-version.cluster.local.", Txt, NoError, &["TXT 1.1.0"]);
    assert_eq!(ask(&zone(), "cluster.local.", Soa).answers.len(), 1);
}

#[test]
fn a_headless_service_has_the_addresses_of_its_ready_endpoints_in_any_order() {
    check("db.shop.svc.cluster.local.", V4, NoError, &["A 10.244.0.2", "A 10.244.1.3"]);
    let (zone, mut orders) = (zone(), BTreeSet::new());
    for seed in 0..32 {
        let question = Query::query(Name::from_ascii("db.shop.svc.cluster.local.").unwrap(), V4);
        let answer = answer(&zone, &question, &mut StdRng::seed_from_u64(seed));
        orders.insert(answer.answers.iter().map(|r| r.data.to_string()).collect::<Vec<_>>());
    }
    assert_eq!(orders.len(), 2);
}

#[test]
fn endpoints_have_names_of_their_own() {
    check("db-0.db.shop.svc.cluster.local.", V4, NoError, &["A 10.244.0.2"]);
    check("10-244-1-3.db.shop.svc.cluster.local.", V4, NoError, &["A 10.244.1.3"]);
    check("10-244-1-3.db.shop.svc.cluster.local.", AAAA, NoError, &[]);
    // Not ready, and known by its host name only.
    check("db-2.db.shop.svc.cluster.local.", V4, NXDomain, &[]);
    check("10-244-0-2.db.shop.svc.cluster.local.", V4, NXDomain, &[]);
}

#[test]
fn endpoints_that_are_not_ready_are_shown_where_the_service_asks_for_it() {
    let mut zone = zone();
    service(&mut zone, "shop", "db", json!({"clusterIP": "None", "publishNotReadyAddresses": true}));
    let answer = ask(&zone, "db.shop.svc.cluster.local.", V4);
    assert_eq!(texts(&answer.answers), ["A 10.244.0.2", "A 10.244.1.3", "A 10.244.1.4"]);
    assert_eq!(ask(&zone, "db-2.db.shop.svc.cluster.local.", V4).answers.len(), 1);
    assert_eq!(ask(&zone, "4.1.244.10.in-addr.arpa.", Ptr).answers.len(), 1);
}

#[test]
fn a_headless_service_without_ready_endpoints_has_no_name() {
    let mut zone = zone();
    endpoints(&mut zone, "shop", "db", json!([{"notReadyAddresses": [{"ip": "10.244.1.4"}]}]));
    assert_eq!(ask(&zone, "db.shop.svc.cluster.local.", V4).code, NXDomain);
}

#[test]
fn named_ports_have_servers_with_their_addresses() {
    let web = "SRV 0 100 80 web.shop.svc.cluster.local.";
    check("_http._tcp.web.shop.svc.cluster.local.", Srv, NoError, &[web]);
    check("_http._tcp.web.shop.svc.cluster.local.", V4, NoError, &[]);
    check("_http._udp.web.shop.svc.cluster.local.", Srv, NXDomain, &[]);
    check("http.tcp.web.shop.svc.cluster.local.", Srv, NXDomain, &[]);
    check("_dns._udp.web.shop.svc.cluster.local.", Srv, NoError, &["SRV 0 100 53 web.shop.svc.cluster.local."]);
    let (one, other) = ("10-244-1-3.db.shop.svc.cluster.local.", "db-0.db.shop.svc.cluster.local.");
    let servers = [one, other].map(|name| format!("SRV 0 100 5432 {name}"));
    check("_sql._tcp.db.shop.svc.cluster.local.", Srv, NoError, &servers.each_ref().map(String::as_str));
    let answer = ask(&zone(), "_sql._tcp.db.shop.svc.cluster.local.", Srv);
    assert_eq!(texts(&answer.additionals), ["A 10.244.0.2", "A 10.244.1.3"]);
    assert!(answer.additionals.iter().any(|r| r.name.to_string() == other));
    assert_eq!(texts(&ask(&zone(), "_http._tcp.web.shop.svc.cluster.local.", Srv).additionals), ["A 10.0.0.5"]);
}

#[test]
fn addresses_of_the_cluster_have_names_and_are_never_asked_elsewhere() {
    check("5.0.0.10.in-addr.arpa.", Ptr, NoError, &["PTR web.shop.svc.cluster.local."]);
    check("2.0.244.10.in-addr.arpa.", Ptr, NoError, &["PTR db-0.db.shop.svc.cluster.local."]);
    check("9.0.244.10.in-addr.arpa.", Ptr, NoError, &["PTR 10-244-0-9.web.shop.svc.cluster.local."]);
    check("5.0.0.10.in-addr.arpa.", V4, NoError, &[]);
    // Not ready; nobody's; in the range; inside of an address.
    for (name, code) in [
        ("4.1.244.10.in-addr.arpa.", NXDomain),
        ("6.0.0.10.in-addr.arpa.", NXDomain),
        ("9.9.247.10.in-addr.arpa.", NXDomain),
        ("0.10.in-addr.arpa.", NoError),
        ("1.247.10.in-addr.arpa.", NoError),
        ("x.5.0.0.10.in-addr.arpa.", NXDomain),
        ("x.0.10.in-addr.arpa.", NXDomain),
        ("x.1.x.0.10.in-addr.arpa.", NXDomain),
        ("05.0.0.10.in-addr.arpa.", NXDomain),
    ] {
        check(name, Ptr, code, &[]);
    }
    for name in ["1.2.0.192.in-addr.arpa.", "10.in-addr.arpa.", "1.0.248.10.in-addr.arpa.", "x.10.in-addr.arpa."] {
        assert!(ask(&zone(), name, Ptr).upstream.is_some(), "{name}");
    }
    let apex = |name| ask(&zone(), name, Ptr).authorities[0].name.to_string();
    assert_eq!(apex("6.0.0.10.in-addr.arpa."), "0.10.in-addr.arpa.");
    assert_eq!(apex("9.9.247.10.in-addr.arpa."), "10.in-addr.arpa.");
}

#[test]
fn an_address_with_dashes_is_the_name_of_a_pod() {
    check("10-244-7-7.shop.pod.cluster.local.", V4, NoError, &["A 10.244.7.7"]);
    for name in ["10-0-0-5", "192-0-2-1", "010-244-7-7", "10-244-7", "10-244-7-7-7", "10.244.7.7", "x"] {
        check(&format!("{name}.shop.pod.cluster.local."), V4, NXDomain, &[]);
    }
}

#[test]
fn a_label_that_is_no_text_leads_nobody_out_of_the_cluster() {
    for (rest, listed) in
        [("web.shop.svc.cluster.local", true), ("5.0.0.10.in-addr.arpa", true), ("cluster.local", false)]
    {
        let labels = std::iter::once(&b"\xff\xfe"[..]).chain(rest.split('.').map(str::as_bytes));
        let query = Query::query(Name::from_labels(labels).unwrap(), V4);
        let zone = if listed { zone() } else { Zone::new(site()) };
        let answer = super::answer(&zone, &query, &mut StdRng::seed_from_u64(1));
        let expected = if listed { NXDomain } else { ResponseCode::ServFail };
        assert_eq!((answer.upstream, answer.code), (None, expected), "{rest}");
    }
}

#[test]
fn an_alias_is_followed_here_and_left_to_others_elsewhere() {
    let answer = ask(&zone(), "elsewhere.shop.svc.cluster.local.", V4);
    assert_eq!(texts(&answer.answers), ["CNAME www.example.com."]);
    assert_eq!(answer.upstream, Some(Query::query(Name::from_ascii("www.example.com.").unwrap(), V4)));
    check("elsewhere.shop.svc.cluster.local.", Cname, NoError, &["CNAME www.example.com."]);
    check("inside.shop.svc.cluster.local.", V4, NoError, &["A 10.0.0.5", "CNAME web.shop.svc.cluster.local."]);
    let nowhere = ask(&zone(), "nowhere.shop.svc.cluster.local.", V4);
    assert_eq!((nowhere.code, nowhere.answers.len(), nowhere.authorities.len()), (NXDomain, 1, 1));
    let inside = ask(&zone(), "inside.shop.svc.cluster.local.", AAAA);
    assert_eq!((inside.code, inside.answers.len(), inside.authorities.len()), (NoError, 1, 1));
    assert_eq!(ask(&zone(), "circle.shop.svc.cluster.local.", V4), Answer::only(ResponseCode::ServFail));
    check("x.elsewhere.shop.svc.cluster.local.", V4, NXDomain, &[]);
}

#[test]
fn other_names_are_left_to_others() {
    for name in ["www.example.com.", "cluster.local.example.com.", "xcluster.local.", "local.", "."] {
        let answer = ask(&zone(), name, V4);
        assert_eq!(answer.upstream, Some(Query::query(Name::from_ascii(name).unwrap(), V4)), "{name}");
        assert!(!answer.authoritative);
    }
}

#[test]
fn a_name_is_answered_in_the_letters_of_the_question() {
    let answer = ask(&zone(), "WeB.Shop.SVC.cluster.LOCAL.", V4);
    assert_eq!(answer.answers[0].name.to_string(), "WeB.Shop.SVC.cluster.LOCAL.");
    assert_eq!(ask(&zone(), "5.0.0.10.IN-ADDR.arpa.", Ptr).answers.len(), 1);
}

#[test]
fn before_both_lists_nobody_is_told_that_a_name_does_not_exist() {
    let mut zone = Zone::new(site());
    let failed = Answer::only(ResponseCode::ServFail);
    for _ in 0..2 {
        assert_eq!(ask(&zone, "web.shop.svc.cluster.local.", V4), failed);
        assert_eq!(ask(&zone, "5.0.0.10.in-addr.arpa.", Ptr), failed);
        assert!(ask(&zone, "www.example.com.", V4).upstream.is_some());
        apply(&mut zone, Update::of_services(Change::replaced(vec![])));
    }
    apply(&mut zone, Update::of_endpoints(Change::replaced(vec![])));
    assert_eq!(ask(&zone, "web.shop.svc.cluster.local.", V4).code, NXDomain);
    assert!(Update::of_services(Change::Interrupted("x".into())).is_none());
}

#[test]
fn changes_are_seen_and_leave_nothing_behind() {
    let mut zone = zone();
    let ip = |zone: &Zone| texts(&ask(zone, "web.shop.svc.cluster.local.", V4).answers);
    // The address goes on to another service before the first one's change is heard of.
    service(&mut zone, "shop", "next", json!({"clusterIP": "10.0.0.5"}));
    service(&mut zone, "shop", "web", json!({"clusterIP": "10.0.0.6"}));
    assert_eq!(ip(&zone), ["A 10.0.0.6"]);
    let pointer = |zone: &Zone, name| texts(&ask(zone, name, Ptr).answers);
    assert_eq!(pointer(&zone, "5.0.0.10.in-addr.arpa."), ["PTR next.shop.svc.cluster.local."]);
    let web = object("shop", "web", json!({"spec": {"clusterIP": "10.0.0.6"}}));
    apply(&mut zone, Update::of_services(Change::deleted(web)));
    assert_eq!(ask(&zone, "web.shop.svc.cluster.local.", V4).code, NXDomain);
    assert_eq!(ask(&zone, "6.0.0.10.in-addr.arpa.", Ptr).code, NXDomain);
    assert_eq!(ask(&zone, "9.0.244.10.in-addr.arpa.", Ptr).code, NXDomain, "endpoints without a service");
    apply(&mut zone, Update::of_services(Change::replaced(vec![])));
    assert!(!zone.has_namespace("shop"));
    for name in ["web", "db"] {
        apply(&mut zone, Update::of_endpoints(Change::deleted(object("shop", name, json!({})))));
    }
    assert_eq!(zone.endpoints_at([10, 244, 0, 2].into()).count(), 0);
}

#[test]
fn a_service_with_very_many_endpoints_shows_some_of_them() {
    let mut zone = empty();
    let addresses: Vec<_> = (0..2000).map(|i| json!({"ip": format!("10.244.{}.{}", i / 200, i % 200)})).collect();
    service(&mut zone, "n", "s", json!({"clusterIP": "None"}));
    let subsets = json!([{"addresses": addresses, "ports": [{"name": "p", "port": 1}]}]);
    endpoints(&mut zone, "n", "s", subsets);
    assert_eq!(ask(&zone, "s.n.svc.cluster.local.", V4).answers.len(), RECORDS_MAX);
    assert_eq!(ask(&zone, "_p._tcp.s.n.svc.cluster.local.", Srv).answers.len(), RECORDS_MAX);
}

proptest! {
    #[test]
    fn every_service_is_found_by_name_and_by_address(
        services in proptest::collection::btree_map(
            ("[a-z]([-a-z0-9]{0,10}[a-z0-9])?", "[a-z]([-a-z0-9]{0,61}[a-z0-9])?"), any::<u16>(), 0..20,
        ),
        upper: bool,
    ) {
        let mut zone = empty();
        let ips: std::collections::BTreeMap<u16, _> = services.iter().map(|(key, ip)| (*ip, key)).collect();
        for (ip, (namespace, name)) in &ips {
            let [high, low] = ip.to_be_bytes();
            service(&mut zone, namespace, name, json!({"clusterIP": format!("10.0.{high}.{low}")}));
        }
        for (ip, (namespace, name)) in &ips {
            let [high, low] = ip.to_be_bytes();
            let full = format!("{name}.{namespace}.svc.cluster.local.");
            let asked = if upper { full.to_uppercase() } else { full.clone() };
            prop_assert_eq!(texts(&ask(&zone, &asked, V4).answers), [format!("A 10.0.{high}.{low}")]);
            let pointer = ask(&zone, &format!("{low}.{high}.0.10.in-addr.arpa."), Ptr);
            prop_assert_eq!(texts(&pointer.answers), [format!("PTR {full}")]);
        }
    }

    #[test]
    fn any_name_is_answered_within_bounds_and_none_of_the_clusters_is_asked_elsewhere(
        labels in proptest::collection::vec(
            prop_oneof!["svc|pod|web|db|shop|db-0|circle|elsewhere|_sql|_tcp|10-244-0-2|10|0|[0-9]{1,3}", "[ -~]{1,63}"],
            0..8,
        ),
        suffix in prop_oneof![Just(vec!["cluster", "local"]), Just(vec!["in-addr", "arpa"]), Just(vec![])],
        kind in prop_oneof![Just(V4), Just(Srv), Just(Ptr), Just(ANY), Just(Cname)], seed: u64,
    ) {
        let labels = labels.iter().map(|l| l.as_bytes()).chain(suffix.iter().map(|l| l.as_bytes()));
        if let Ok(name) = Name::from_labels(labels) {
            let answer = answer(&zone(), &Query::query(name.clone(), kind), &mut StdRng::seed_from_u64(seed));
            prop_assert!(answer.answers.len() <= RECORDS_MAX && answer.additionals.len() <= RECORDS_MAX);
            if let Some(asked) = &answer.upstream {
                prop_assert!(!Name::from_ascii("cluster.local.").unwrap().zone_of(asked.name()));
                prop_assert!(!Name::from_ascii("0.10.in-addr.arpa.").unwrap().zone_of(asked.name()));
            }
        }
    }
}
