//! What a hostile client sends: the VM lives, the plugin steers, and no request gets where the
//! route does not lead.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

mod support;

use std::io::Write;
use std::time::Duration;

use integration::harness::{Builder, Harness};
use integration::upstream::Upstream;
use integration::upstream::fault::FaultSpec;
use serde_json::json;
use support::{expect_alive_and_steering, knows_endpoints, wire};

/// How long an answer may take that may not come at all.
const PATIENCE: Duration = Duration::from_secs(5);

/// Envoy lets through what it can be made to let through.
fn open() -> Builder {
    Harness::builder().edit(
        "stat_prefix: rig\n",
        "stat_prefix: rig\n        \
         max_request_headers_kb: 1024\n        \
         use_remote_address: false\n        \
         common_http_protocol_options: {max_headers_count: 3000}\n",
    )
}

async fn started(builder: Builder) -> Option<Harness> {
    let harness = builder.start().await.unwrap()?;
    knows_endpoints(&harness, 3).await;
    Some(harness)
}

/// A request with these lines after the request line, each without its end.
fn request(line: &str, headers: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("{line} HTTP/1.1\r\nhost: rig\r\n").into_bytes();
    for header in headers {
        bytes.extend_from_slice(header);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn status(harness: &Harness, bytes: &[u8]) -> u16 {
    wire::send(harness.envoy().entry, bytes, PATIENCE).map_or(0, |answer| answer.status)
}

/// The private headers of the last request that reached any upstream.
async fn private_headers(harness: &Harness) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for upstream in harness.upstreams() {
        let last = upstream.last_request().await.unwrap();
        let private =
            |name: &str| name.starts_with("x-outrigger") || name.starts_with("x-envoy-retry");
        found.extend(last.headers.into_iter().filter(|(name, _)| private(name)));
    }
    found
}

#[tokio::test]
async fn a_forged_list_reaches_no_other_address_and_leaves_with_no_request() {
    let Some(harness) = started(open()).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let outsider = Upstream::start_process("outsider", 1, folder.path()).await.unwrap();
    let to = outsider.address();
    let forged: Vec<Vec<Vec<u8>>> = [
        vec![format!("x-outrigger-endpoints: {to}")],
        vec![format!("X-OUTRIGGER-Endpoints: {to}")],
        vec![format!("x-outrigger-endpoints: {to},{to}"), format!("x-outrigger-endpoints: {to}")],
        vec![format!("x-outrigger-endpoints:{to}"), "x-outrigger-endpoints:".to_owned()],
        vec!["x-outrigger-endpoints: \u{0fff},,,".to_owned(), "x-outrigger-: 1".to_owned()],
        vec!["x-outrigger-anything: 1".to_owned(), "x-outrigger-endpointsx: 1".to_owned()],
        vec![format!("x-envoy-original-dst-host: {to}"), format!("x-outrigger-endpoints: {to}")],
        vec![format!("x-envoy-retry-on: 5xx,{to}")],
        vec![format!("x-envoy-retry-on: {to}"), format!("x-envoy-retry-on: {to},reset")],
        vec![format!("connection: x-outrigger-endpoints"), format!("x-outrigger-endpoints: {to}")],
    ]
    .map(|headers| headers.into_iter().map(String::into_bytes).collect())
    .to_vec();
    for headers in &forged {
        for _ in 0..6 {
            let text = String::from_utf8_lossy(&headers.concat()).into_owned();
            assert_eq!(status(&harness, &request("GET /", headers)), 200, "{text}");
            assert_eq!(private_headers(&harness).await, [], "sent upstream after {text}");
        }
    }
    assert_eq!(outsider.stats().await.unwrap().requests, 0);
    expect_alive_and_steering(&harness).await;
}

#[tokio::test]
async fn a_forged_list_counts_for_nothing_where_the_plugin_does_not_steer_either() {
    let elsewhere = json!({"clusters": [{"name": "elsewhere"}]});
    let Some(harness) = open().config(elsewhere).start().await.unwrap() else { return };
    let chosen = harness.upstream(0).address();
    for name in ["x-outrigger-endpoints", "x-envoy-retry-on"] {
        let forged = format!("{name}: {chosen}").into_bytes();
        for _ in 0..15 {
            let bytes = request("GET /", std::slice::from_ref(&forged));
            assert_eq!(status(&harness, &bytes), 200);
        }
    }
    for upstream in harness.upstreams() {
        // round robin in each of two workers
        let requests = upstream.stats().await.unwrap().requests;
        assert!((8..=12).contains(&requests), "{requests} requests to {}", upstream.name());
    }
    assert_eq!(private_headers(&harness).await, []);
    support::expect_no_wasm_failure(&harness).await;
}

#[tokio::test]
async fn headers_of_any_bytes_number_and_size_are_served_or_refused_by_envoy() {
    let Some(harness) = started(open().config(json!({"defaults": {
        "lb_policy": {"ring_hash": {}},
        "hash_policy": [{"header": {"header_name": "x-key"}}, {"cookie": {"name": "sid"}}],
    }})))
    .await
    else {
        return;
    };
    let high: Vec<u8> = (0x80..=0xff).collect();
    let with = |name: &str, value: &[u8]| [name.as_bytes(), b": ", value].concat();
    let many = |name: &str, count: usize| -> Vec<Vec<u8>> {
        (0..count).map(|n| with(&name.replace('#', &n.to_string()), b"v")).collect()
    };
    let served: Vec<(&str, Vec<Vec<u8>>)> = vec![
        (
            "no UTF-8",
            vec![with("x-key", &high), with("x-request-id", &high), with("cookie", &high)],
        ),
        ("no UTF-8 cookie", vec![with("cookie", &[b"sid=\xff\xfe".as_slice(), &high].concat())]),
        ("1,000 headers", many("x-h-#", 1000)),
        ("1,000 values of the key", many("x-key", 1000)),
        ("1,000 forged lists", many("x-outrigger-endpoints", 1000)),
        ("1,000 private names", many("x-outrigger-#", 1000)),
        ("a huge key", vec![with("x-key", &vec![b'k'; 200_000])]),
        ("a huge name", vec![with(&"n".repeat(60_000), b"v")]),
        ("a huge request id", vec![with("x-request-id", &vec![b'i'; 100_000])]),
        ("two request ids", vec![with("x-request-id", b"a"), with("x-request-id", b"b")]),
        ("an empty request id", vec![with("x-request-id", b"")]),
        ("a bare CR", vec![with("x-key", b"a\rb")]),
        ("a tab", vec![with("x-key", b"a\tb")]),
        ("100,000 cookies", vec![with("cookie", "a=b;".repeat(100_000).as_bytes())]),
        (
            "retries ordered",
            vec![
                with("x-envoy-retry-on", b"5xx,\xff"),
                with("x-envoy-max-retries", b"99999999999999999999"),
                with("x-envoy-max-retries", b"-1"),
                with("x-envoy-upstream-rq-per-try-timeout-ms", b"\xff"),
                with("x-envoy-hedge-on-per-try-timeout", b"true"),
                with("x-envoy-attempt-count", b"7"),
                with("x-envoy-internal", b"true"),
                with("x-forwarded-for", b"10.0.0.1"),
            ],
        ),
    ];
    for (what, headers) in served {
        for _ in 0..3 {
            assert_eq!(status(&harness, &request("GET /", &headers)), 200, "{what}");
        }
        assert_eq!(private_headers(&harness).await, [], "{what}");
    }
    for (what, headers) in [
        ("a NUL", vec![with("x-key", b"a\0b")]),
        ("a name of no UTF-8", vec![[b"x-\xff: v".as_slice()].concat()]),
        ("an empty name", vec![b": v".to_vec()]),
        ("too many", many("x-#", 3500)),
        ("too large", vec![with("x-key", &vec![b'k'; 2 << 20])]),
    ] {
        let got = status(&harness, &request("GET /", &headers));
        assert!(got == 0 || (400..500).contains(&got), "{what}: {got}");
    }
    expect_alive_and_steering(&harness).await;
}

#[tokio::test]
async fn odd_methods_and_targets_are_served_or_refused() {
    let Some(harness) = started(open()).await else { return };
    for line in [
        "CONNECT rig:80",
        "OPTIONS *",
        "TRACE /",
        "BREW /",
        "get /",
        "GET http://other/",
        "GET //",
        "GET /%00%ff?\u{fffd}",
        "GET *",
        "PRI *",
        "HEAD /",
        "DELETE /",
        "PATCH /a?b#c",
        "M-SEARCH *",
        "PUT /",
        "GET ?",
    ] {
        for headers in [vec![], vec![b"content-length: 0".to_vec()], vec![b"upgrade: x".to_vec()]] {
            let bytes = request(line, &headers);
            // the answer to HEAD has a length and no body, so it is not waited for
            let wait = if line.starts_with("HEAD") { Duration::from_millis(200) } else { PATIENCE };
            let answer = wire::send(harness.envoy().entry, &bytes, wait);
            println!("{line}: {answer:?}");
        }
    }
    let nothing =
        [b"\r\n\r\n".as_slice(), b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n", b"\0"];
    for bytes in nothing {
        wire::send(harness.envoy().entry, bytes, Duration::from_millis(200));
    }
    assert_eq!(private_headers(&harness).await, []);
    expect_alive_and_steering(&harness).await;
}

#[tokio::test]
async fn clients_that_leave_early_leave_nothing_behind() {
    let Some(harness) = started(open()).await else { return };
    let entry = harness.envoy().entry;
    for upstream in harness.upstreams() {
        upstream.fault(&FaultSpec::delay(300)).await.unwrap();
    }
    let whole = request("GET /", &[b"x-request-id: left".to_vec()]);
    let body = request("POST /", &[b"content-length: 100000".to_vec()]);
    for round in 0..4 {
        let mut streams: Vec<_> = (0..100).map(|_| wire::connect(entry, PATIENCE)).collect();
        for (n, stream) in streams.iter_mut().enumerate() {
            let bytes = if n % 3 == 0 { &body } else { &whole };
            let end = if n % 5 == 0 { bytes.len() / 2 } else { bytes.len() };
            stream.write_all(&bytes[..end]).unwrap();
        }
        if round % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for (n, stream) in streams.into_iter().enumerate() {
            if n % 2 == 0 { wire::reset(stream) } else { drop(stream) }
        }
    }
    for upstream in harness.upstreams() {
        upstream.fault(&FaultSpec::none()).await.unwrap();
    }
    let quiet = async |h: &Harness| Ok(h.counter("cluster.backend.upstream_rq_active").await? == 0);
    harness.eventually("nothing is in flight", quiet).await.unwrap();
    expect_alive_and_steering(&harness).await;
    assert_eq!(harness.metric("ejections").await.unwrap(), 0, "a client's leaving is no failure");
}

#[tokio::test]
async fn two_thousand_random_requests_over_failing_upstreams_leave_the_plugin_alive() {
    const REQUESTS: u64 = 2000;
    const CLIENTS: u64 = 8;
    let seed = std::env::var("OUTRIGGER_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    println!("OUTRIGGER_SEED={seed}");
    let Some(harness) = started(open().config(json!({"defaults": {
        "lb_policy": {"maglev": {}},
        "hash_policy": [
            {"header": {"header_name": "x-key"}}, {"cookie": {"name": "sid"}}, {"path": {}},
        ],
        "circuit_breaker": {"base_ejection_time": "100ms"},
    }})))
    .await
    else {
        return;
    };
    harness.upstream(0).fault(&FaultSpec::status(503).with_probability(0.3)).await.unwrap();
    harness.upstream(1).fault(&FaultSpec::reset().with_probability(0.2)).await.unwrap();
    let entry = harness.envoy().entry;
    let clients = (0..CLIENTS).map(|client| {
        tokio::task::spawn_blocking(move || {
            let mut random = fastrand::Rng::with_seed(seed * CLIENTS + client);
            for _ in 0..REQUESTS / CLIENTS {
                one_random_request(entry, &mut random);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    for upstream in harness.upstreams() {
        upstream.fault(&FaultSpec::none()).await.unwrap();
    }
    let counted = async |h: &Harness| Ok(h.metric("requests").await? > REQUESTS / 4);
    harness.eventually("many of them were planned", counted).await.unwrap();
    println!("{:?}", harness.metrics().await.unwrap());
    assert_eq!(private_headers(&harness).await, []);
    // The upstreams are well again; their breakers have to find out.
    let healed = async |h: &Harness| {
        // by many keys: a trial needs a request whose key is that endpoint's
        let requests: Vec<_> = (0..50).map(|n| wire::get(&format!("/{n}"), &[])).collect();
        wire::exchange(h.envoy().entry, &requests);
        Ok(h.metric("endpoints_held_out").await? == 0)
    };
    harness.eventually("every endpoint is back", healed).await.unwrap();
    expect_alive_and_steering(&harness).await;
}

/// Well-formed enough that most get through Envoy, damaged often enough that some do not.
fn one_random_request(entry: std::net::SocketAddr, random: &mut fastrand::Rng) {
    const METHODS: [&str; 8] = ["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "X", "CONNECT"];
    const NAMES: [&str; 16] = [
        "x-key",
        "cookie",
        "x-request-id",
        "x-outrigger-endpoints",
        "x-outrigger-x",
        "x-envoy-retry-on",
        "x-envoy-max-retries",
        "x-envoy-upstream-rq-timeout-ms",
        "x-envoy-upstream-rq-per-try-timeout-ms",
        "x-envoy-retry-grpc-on",
        "x-forwarded-for",
        "content-length",
        "transfer-encoding",
        "te",
        "x-o",
        "expect",
    ];
    const VALUES: [&str; 12] = [
        "",
        "0",
        "-1",
        "1",
        "chunked",
        "5xx",
        "sid=1; sid=2",
        "127.0.0.1:1,127.0.0.1:2",
        "sid=\"",
        "100-continue",
        "99999999999999999999",
        "\u{fffd}\u{0}",
    ];
    let method = METHODS[random.usize(..METHODS.len())];
    let mut headers = Vec::new();
    for _ in 0..random.usize(..8) {
        let name = NAMES[random.usize(..NAMES.len())];
        let value = if random.bool() {
            VALUES[random.usize(..VALUES.len())].as_bytes().to_vec()
        } else {
            // mostly bytes that Envoy lets through
            (0..random.usize(..40)).map(|_| random.u8(0x20..).max(0x21)).collect()
        };
        headers.push([name.as_bytes(), b": ", &value].concat());
    }
    let mut bytes = request(&format!("{method} /{}", random.u16(..)), &headers);
    if random.u8(..10) == 0 {
        let at = random.usize(..bytes.len());
        bytes[at] = random.u8(..);
    }
    if random.u8(..10) == 0 {
        bytes.truncate(random.usize(..bytes.len()));
    }
    let mut stream = wire::connect(entry, Duration::from_millis(100));
    let _ = stream.write_all(&bytes);
    match random.u8(..4) {
        0 => wire::reset(stream),
        1 => drop(stream),
        _ => {
            let mut answer = [0; 4096];
            let _ = std::io::Read::read(&mut stream, &mut answer);
        }
    }
}
