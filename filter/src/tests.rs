//! The adapter under hosts that behave and hosts that do not.

use crate::contexts::{Contexts, STREAMS_MAX};
use crate::fake_host::FakeHost;
use crate::host::Failure;
use crate::worker::{IDLE_TICK_MS, TICK_MS};

const STATIC: &str = r#"{"clusters": [{"name": "c", "match": {"path_prefixes": ["/"]},
    "membership": {"static": {"endpoints": [{"address": "10.0.0.1:80"},
        {"address": "10.0.0.2:80"}, {"address": "[::1]:80"}]}}}]}"#;

const ROOT: u32 = 1;

/// Where the metrics of cluster `c` begin.
const C: &str = "outrigger.cluster.c";

fn started(json: &str) -> (FakeHost, Contexts<FakeHost>) {
    let host = FakeHost::configured(json);
    let mut contexts = Contexts::new(host.clone(), 42);
    assert!(contexts.on_configure(ROOT));
    (host, contexts)
}

fn get(host: &FakeHost, id: &str) {
    host.set_request(&[
        (b":method", b"GET"),
        (b":path", b"/"),
        (b":authority", b"a"),
        (b"x-request-id", id.as_bytes()),
    ]);
}

/// A GET that succeeds, from its headers to its log. Returns its list.
fn request(host: &FakeHost, contexts: &mut Contexts<FakeHost>, context: u32) -> Vec<String> {
    get(host, &format!("id-{context}"));
    contexts.on_request_headers(context);
    let list = list(host);
    contexts.on_log(context);
    list
}

/// The endpoints among the retry conditions.
fn list(host: &FakeHost) -> Vec<String> {
    let values = host.request_header("x-envoy-retry-on");
    let tokens = values.iter().flat_map(|value| value.split(','));
    tokens.filter(|token| token.contains(':')).map(String::from).collect()
}

/// The retry conditions themselves.
fn conditions(host: &FakeHost) -> String {
    let values = host.request_header("x-envoy-retry-on");
    assert!(values.len() <= 1, "{values:?}");
    let tokens = values.iter().flat_map(|value| value.split(','));
    tokens.filter(|token| !token.contains(':')).collect::<Vec<_>>().join(",")
}

/// The access logger reports a 503 of `address` for the request of `context`.
fn report(host: &FakeHost, contexts: &mut Contexts<FakeHost>, context: u32, address: &str) {
    get(host, &format!("id-{context}"));
    host.set_property(b"response\0flags", &0_u64.to_le_bytes());
    host.set_property(b"response\0code", &503_u64.to_le_bytes());
    host.set_property(b"upstream\0address", address.as_bytes());
    host.set_property(b"xds\0cluster_name", b"c");
    contexts.on_log(ROOT);
}

#[test]
fn a_request_gets_a_list_of_endpoints_and_its_retry_conditions() {
    let (host, mut contexts) = started(STATIC);
    let list = request(&host, &mut contexts, 10);
    assert_eq!(list.len(), 3);
    assert!(list.contains(&"[::1]:80".to_string()));
    assert_eq!(conditions(&host), "reset,gateway-error");
    assert_eq!(contexts.streams(), 0);
}

#[test]
fn a_post_is_retried_only_when_nothing_was_sent() {
    let (host, mut contexts) = started(STATIC);
    host.set_request(&[(b":method", b"POST"), (b":path", b"/")]);
    contexts.on_request_headers(10);
    assert_eq!(conditions(&host), "connect-failure,refused-stream,reset-before-request");
    assert_eq!(list(&host).len(), 3);
}

#[test]
fn what_a_client_sends_in_our_name_never_survives() {
    let (host, mut contexts) = started(STATIC);
    host.set_request(&[
        (b":method", b"GET"),
        (b":path", b"/"),
        (b"x-outrigger-endpoints", b"6.6.6.6:80"),
        (b"x-outrigger-endpoints", b"6.6.6.7:80"),
        (b"x-outrigger-anything", b"\xff"),
        (b"x-envoy-retry-on", b"5xx,6.6.6.8:80"),
        (b"x-envoy-max-retries", b"1000"),
    ]);
    contexts.on_request_headers(10);
    assert_eq!(conditions(&host), "reset,gateway-error");
    assert!(list(&host).iter().all(|address| !address.contains("6.6.6")));
    assert!(host.request_header("x-outrigger-endpoints").is_empty());
    assert!(host.request_header("x-outrigger-anything").is_empty());
    // and when there is nothing to say about the request
    let (host, mut contexts) = started("{}");
    host.set_request(&[
        (b"x-outrigger-endpoints", b"6.6.6.6:80"),
        (b"x-envoy-retry-on", b"5xx, 6.6.6.8:80"),
        (b"x-envoy-retry-on", b"6.6.6.9:80,reset"),
    ]);
    contexts.on_request_headers(10);
    assert!(host.request_header("x-outrigger-endpoints").is_empty());
    assert_eq!(host.request_header("x-envoy-retry-on"), ["5xx,reset"]);
}

#[test]
fn failures_reported_by_the_logger_take_an_endpoint_out() {
    let (host, mut contexts) = started(STATIC);
    for context in 10..15 {
        get(&host, &format!("id-{context}"));
        contexts.on_request_headers(context);
        report(&host, &mut contexts, context, "10.0.0.2:80");
    }
    for context in 20..40 {
        let list = request(&host, &mut contexts, context);
        assert!(!list.contains(&"10.0.0.2:80".to_string()));
    }
    contexts.on_tick(ROOT);
    assert_eq!(host.metric_value(&format!("{C}.ejections")), 1);
    assert_eq!(host.metric_value(&format!("{C}.endpoints_held_out")), 1);
    assert_eq!(host.metric_value(&format!("{C}.attempts_gateway_error")), 5);
    let log = host.0.log.borrow().join("\n");
    assert!(log.contains("c 10.0.0.2:80: out for"), "{log}");
}

#[test]
fn a_second_worker_learns_it_on_its_next_tick_and_a_new_vm_at_once() {
    let (host, mut contexts) = started(STATIC);
    let mut other = Contexts::new(host.clone(), 43);
    assert!(other.on_configure(ROOT));
    request(&host, &mut other, 5);
    for context in 10..15 {
        get(&host, &format!("id-{context}"));
        contexts.on_request_headers(context);
        report(&host, &mut contexts, context, "10.0.0.2:80");
    }
    host.advance(u64::from(TICK_MS));
    other.on_tick(ROOT);
    let mut reloaded = Contexts::new(host.clone(), 44);
    assert!(reloaded.on_configure(ROOT));
    for context in 20..40 {
        for worker in [&mut other, &mut reloaded] {
            let list = request(&host, worker, context);
            assert!(!list.contains(&"10.0.0.2:80".to_string()));
        }
    }
}

#[test]
fn one_vm_polls_and_all_know_the_membership() {
    let (host, mut first) = started("{}");
    let mut second = Contexts::new(host.clone(), 43);
    assert!(second.on_configure(ROOT));
    for _ in 0..3 {
        host.advance(100);
        first.on_tick(ROOT);
        second.on_tick(ROOT);
    }
    assert_eq!(host.0.calls.borrow().len(), 1, "one poller");
    assert_eq!(host.0.calls.borrow()[0], ("outrigger_admin".into(), "/clusters".into()));
    answer(&host, b"200", &clusters(&["10.0.0.1:80", "10.0.0.2:80"]));
    first.on_call_answered(ROOT, 1, 1, usize::MAX);
    host.advance(1000);
    second.on_tick(ROOT);
    assert_eq!(request(&host, &mut first, 10).len(), 2);
    assert_eq!(request(&host, &mut second, 10).len(), 2);
}

#[test]
fn bad_answers_keep_the_last_good_membership_and_are_counted() {
    let (host, mut contexts) = started("{}");
    contexts.on_tick(ROOT);
    let good = clusters(&["10.0.0.1:80", "10.0.0.2:80"]);
    answer(&host, b"200", &good);
    contexts.on_call_answered(ROOT, 1, 1, good.len());
    let bad: [(&[u8], usize, &[u8]); 6] = [
        (b"503", 1, b""),
        (b"200", 0, b""),
        (b"200", 1, b""),
        (b"200", 1, b"not a membership"),
        (b"\xff", 1, b""),
        (b"200", 1, &good[..good.len() - 9]),
    ];
    for (failures, (status, headers, body)) in (1_u32..).zip(bad) {
        host.advance(5000);
        contexts.on_tick(ROOT);
        let call = u32::try_from(host.0.calls.borrow().len()).unwrap();
        answer(&host, status, body);
        contexts.on_call_answered(ROOT, call, headers, body.len());
        contexts.on_tick(ROOT);
        assert_eq!(host.metric_value("outrigger.membership_failures"), u64::from(failures));
        assert_eq!(request(&host, &mut contexts, 100 + failures).len(), 2);
    }
}

#[test]
fn a_refused_configuration_names_the_field_and_changes_nothing() {
    let (host, mut contexts) = started(STATIC);
    let bad = r#"{"defaults": {"retry": {"budget": {"percent": 250}}}}"#;
    *host.0.configuration.borrow_mut() = bad.as_bytes().to_vec();
    assert!(!contexts.on_configure(2));
    assert!(!contexts.on_configure(ROOT));
    let log = host.0.log.borrow().join("\n");
    assert!(log.contains("defaults.retry.budget.percent: must be 0..100, got 250"), "{log}");
    assert_eq!(request(&host, &mut contexts, 10).len(), 3);
}

#[test]
fn the_newest_configuration_serves_new_requests_and_what_was_learnt_stays() {
    let (host, mut contexts) = started(STATIC);
    for context in 10..15 {
        get(&host, &format!("id-{context}"));
        contexts.on_request_headers(context);
        report(&host, &mut contexts, context, "10.0.0.2:80");
    }
    let newer = STATIC.replace(r#""name": "c","#, r#""name": "c", "retry": {"num_retries": 7},"#);
    *host.0.configuration.borrow_mut() = newer.as_bytes().to_vec();
    assert!(contexts.on_configure(2));
    for context in 20..40 {
        let list = request(&host, &mut contexts, context);
        assert_eq!(host.request_header("x-envoy-max-retries"), ["7"]);
        assert!(!list.contains(&"10.0.0.2:80".to_string()));
    }
    let defined = host.0.metrics.borrow().len();
    let mut names: Vec<String> = host.0.metrics.borrow().iter().map(|m| m.0.clone()).collect();
    names.sort();
    names.dedup();
    assert_eq!(defined, names.len(), "every name is defined once");
}

#[test]
fn a_configuration_that_returns_while_it_drains_serves_again_though_another_is_newer() {
    let (host, mut contexts) = started(STATIC);
    *host.0.configuration.borrow_mut() = STATIC.replace("10.0.0.", "10.9.9.").into_bytes();
    assert!(contexts.on_configure(2));
    for (context, parent, prefix) in [(10, 2, "10.9.9."), (11, ROOT, "10.0.0."), (12, 2, "10.9.9.")]
    {
        // Envoy says no more than this
        contexts.on_create(context, parent);
        let list = request(&host, &mut contexts, context);
        assert!(list.iter().any(|address| address.starts_with(prefix)), "{list:?}");
    }
    contexts.on_create(13, 99);
    assert!(!request(&host, &mut contexts, 13).is_empty(), "a root that is not known");
}

#[test]
fn a_root_that_no_longer_ticks_is_dropped_but_not_for_a_pause_of_all() {
    let (host, mut contexts) = started(STATIC);
    *host.0.configuration.borrow_mut() = STATIC.replace("10.0.0.", "10.9.9.").into_bytes();
    assert!(contexts.on_configure(2));
    let newest_serves = |contexts: &mut Contexts<FakeHost>, context| {
        let list = request(&host, contexts, context);
        list.iter().any(|address| address.starts_with("10.9.9."))
    };
    host.advance(60_000);
    contexts.on_tick(ROOT);
    assert!(newest_serves(&mut contexts, 10), "the whole process stood still");
    for _ in 0..200 {
        host.advance(1000);
        contexts.on_tick(ROOT);
    }
    assert!(!newest_serves(&mut contexts, 11), "only the first has ticked since");
}

#[test]
fn a_logger_with_a_root_of_its_own_hands_its_reports_on() {
    let (host, mut contexts) = started(STATIC);
    host.set_property(b"plugin_root_id", b"observe");
    *host.0.configuration.borrow_mut() = b"not json".to_vec();
    assert!(contexts.on_configure(2), "an observer has no configuration to refuse");
    for context in 10..15 {
        get(&host, &format!("id-{context}"));
        contexts.on_request_headers(context);
        host.set_property(b"response\0code", &503_u64.to_le_bytes());
        host.set_property(b"upstream\0address", b"10.0.0.2:80");
        contexts.on_log(2);
    }
    let list = request(&host, &mut contexts, 20);
    assert!(!list.contains(&"10.0.0.2:80".to_string()));
}

#[test]
fn a_vm_that_sees_no_request_ticks_slowly_and_wakes_on_the_first() {
    let (host, mut contexts) = started(STATIC);
    assert_eq!(host.0.tick_ms.get(), IDLE_TICK_MS);
    request(&host, &mut contexts, 10);
    assert_eq!(host.0.tick_ms.get(), TICK_MS);
}

#[test]
fn any_bytes_in_headers_are_only_bytes() {
    let (host, mut contexts) = started(&STATIC.replace(
        r#""name": "c","#,
        r#""name": "c", "lb_policy": {"ring_hash": {}}, "hash_policy":
                [{"header": {"header_name": "x-key"}}, {"cookie": {"name": "sid"}}, {"path": {}},
                 {"connection_properties": {"source_ip": true}}],"#,
    ));
    let all: Vec<u8> = (0..=255).collect();
    for value in [b"".as_slice(), b"\xff\xfe", &all, &[b'a'; 70_000]] {
        host.set_property(b"source\0address", value);
        host.set_request(&[
            (b":method", value),
            (b":path", value),
            (b":authority", value),
            (b"x-request-id", value),
            (b"x-key", value),
            (b"cookie", value),
            (value, value),
        ]);
        contexts.on_request_headers(10);
        contexts.on_log(10);
        contexts.on_log(ROOT);
    }
    let name: Vec<Vec<u8>> = (0..1000).map(|i| format!("x-key{}", i % 7).into_bytes()).collect();
    let many: Vec<(&[u8], &[u8])> = name.iter().map(|n| (n.as_slice(), b"v".as_slice())).collect();
    host.set_request(&many);
    host.set_property(b"xds\0cluster_name", b"c");
    contexts.on_request_headers(11);
    assert_eq!(list(&host).len(), 3);
}

#[test]
fn a_forged_header_map_is_read_as_far_as_it_makes_sense() {
    let (host, mut contexts) = started(STATIC);
    get(&host, "id");
    for forged in [vec![], vec![1], vec![255; 4], vec![255; 64], vec![1, 0, 0, 0, 9, 0, 0, 0]] {
        *host.0.forged_map.borrow_mut() = Some(forged);
        contexts.on_request_headers(10);
        contexts.on_log(10);
    }
}

/// Every callback once, with some that make no sense.
fn everything(host: &FakeHost, contexts: &mut Contexts<FakeHost>) {
    contexts.on_configure(ROOT);
    contexts.on_tick(ROOT);
    contexts.on_tick(77);
    let _ = request(host, contexts, 10);
    contexts.on_request_headers(11);
    report(host, contexts, 11, "10.0.0.2:80");
    contexts.on_log(99);
    contexts.on_call_answered(ROOT, 1, 1, 100);
    contexts.on_call_answered(77, 1, 0, 0);
    contexts.on_log(11);
    contexts.on_log(11);
    host.advance(2500);
    contexts.on_tick(ROOT);
}

#[test]
fn no_status_of_any_call_in_any_callback_traps_or_changes_what_worked() {
    let statuses = [
        Failure::NotFound,
        Failure::BadArgument,
        Failure::CasMismatch,
        Failure::Other(3),
        Failure::Other(10),
        Failure::Other(12),
        Failure::Other(-1),
    ];
    for failure in statuses {
        let (host, mut contexts) = started(STATIC);
        host.0.broken.set(Some(failure));
        everything(&host, &mut contexts);
        host.0.broken.set(None);
        host.advance(60_000);
        contexts.on_tick(ROOT);
        assert_eq!(request(&host, &mut contexts, 20).len(), 3, "{failure:?}");
        contexts.on_tick(ROOT);
        assert!(host.metric_value("outrigger.host_failures") > 0, "{failure:?}");
    }
}

#[test]
fn any_single_call_may_fail() {
    let (host, mut contexts) = started(STATIC);
    let before = host.0.used.get();
    everything(&host, &mut contexts);
    let calls = host.0.used.get() - before;
    assert!(calls > 30);
    for number in 0..calls {
        let (host, mut contexts) = started(STATIC);
        host.0.fails_at.set(Some(host.0.used.get() + number));
        everything(&host, &mut contexts);
        host.advance(60_000);
        contexts.on_tick(ROOT);
        assert!(request(&host, &mut contexts, 20).len() >= 2, "call {number} failed");
    }
}

#[test]
fn callbacks_before_any_configuration_and_in_any_order_are_left_alone() {
    let host = FakeHost::configured(STATIC);
    let mut contexts = Contexts::new(host.clone(), 42);
    get(&host, "id");
    contexts.on_log(5);
    contexts.on_request_headers(5);
    contexts.on_tick(5);
    contexts.on_call_answered(5, 5, 5, 5);
    assert!(list(&host).is_empty());
    *host.0.request.borrow_mut() = None;
    assert!(contexts.on_configure(ROOT));
    contexts.on_request_headers(6);
    contexts.on_log(6);
}

#[test]
fn streams_that_never_end_are_not_remembered_without_limit() {
    let (host, mut contexts) = started(STATIC);
    get(&host, "id");
    host.set_property(b"xds\0cluster_name", b"c");
    for context in 0..u32::try_from(STREAMS_MAX).unwrap() + 100 {
        *host.0.request.borrow_mut() = Some(Vec::new());
        contexts.on_request_headers(100 + context);
    }
    assert_eq!(contexts.streams(), STREAMS_MAX);
}

#[test]
fn a_success_costs_two_host_calls() {
    let (host, mut contexts) = started(STATIC);
    request(&host, &mut contexts, 10);
    let before = host.0.used.get();
    request(&host, &mut contexts, 11);
    assert_eq!(host.0.used.get() - before, 2, "the header map, and one header");
}

fn answer(host: &FakeHost, status: &[u8], body: &[u8]) {
    *host.0.call_response.borrow_mut() = Some(vec![(b":status".to_vec(), status.to_vec())]);
    *host.0.body.borrow_mut() = body.to_vec();
}

/// A body as Envoy's admin writes it, for one cluster called `c`.
fn clusters(addresses: &[&str]) -> Vec<u8> {
    let real = include_str!("../policy/src/membership/testdata/backend.txt");
    let cluster = real.lines().next().and_then(|line| line.split("::").next()).unwrap();
    let host_lines: Vec<&str> = {
        let hosts = real.lines().filter(|line| line.contains("::cx_active::"));
        let first = hosts.map(|line| line.split("::cx_active").next().unwrap()).next().unwrap();
        real.lines().filter(|line| line.starts_with(&format!("{first}::"))).collect()
    };
    let first = host_lines[0].split("::cx_active").next().unwrap();
    let mut body: String = real
        .lines()
        .filter(|line| {
            let rest = &line[cluster.len() + 2..];
            !rest.starts_with(|c: char| c.is_ascii_digit() || c == '[')
        })
        .map(|line| format!("c::{}\n", &line[cluster.len() + 2..]))
        .collect();
    for address in addresses {
        for line in &host_lines {
            body += &format!("c::{address}{}\n", &line[first.len()..]);
        }
    }
    body.into_bytes()
}
