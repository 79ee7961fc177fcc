//! gRPC through a real Envoy: HTTP/2 on both sides, POST, the outcome in trailers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use integration::bootstrap::Endpoint;
use integration::harness::Harness;
use integration::ports;
use serde_json::{Value, json};
use support::shares::orca_report;
use support::{expect_no_wasm_failure, knows_endpoints};

/// A message of no bytes: not compressed, length 0.
const MESSAGE: [u8; 5] = [0; 5];

/// A gRPC server of this process: answers every call with an empty message.
struct Server {
    address: SocketAddr,
    /// `endpoint-load-metrics-bin` of its trailers; empty: none.
    report: Arc<Mutex<String>>,
    /// `grpc-status` of its trailers.
    status: Arc<Mutex<&'static str>>,
}

impl Server {
    async fn start() -> Self {
        let address = ports::free().unwrap();
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let report = Arc::new(Mutex::new(String::new()));
        let status = Arc::new(Mutex::new("0"));
        let shared = (Arc::clone(&report), Arc::clone(&status));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let shared = shared.clone();
                let service = hyper::service::service_fn(move |request| {
                    let (report, status) = &shared;
                    let (report, status) =
                        (report.lock().unwrap().clone(), *status.lock().unwrap());
                    answer(request, address, report, status)
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, report, status }
    }

    fn report(&self, cpu: f64) {
        *self.report.lock().unwrap() = orca_report(cpu, 100.0);
    }
}

async fn answer(
    request: Request<Incoming>,
    address: SocketAddr,
    report: String,
    status: &'static str,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let _ = request.into_body().collect().await;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    if !report.is_empty() {
        trailers.insert("endpoint-load-metrics-bin", HeaderValue::from_str(&report).unwrap());
    }
    let body = Full::new(Bytes::from_static(&MESSAGE));
    let body = body.with_trailers(std::future::ready(Some(Ok(trailers))));
    let response = Response::builder()
        .header("content-type", "application/grpc")
        .header("x-upstream-address", address.to_string());
    Ok(response.body(body).unwrap())
}

/// Makes so many calls over each of a few connections; how many each server has answered.
async fn call(harness: &Harness, servers: &[Server], count: usize) -> Vec<usize> {
    const CONNECTIONS: usize = 8;
    let mut counts = vec![0; servers.len()];
    for _ in 0..CONNECTIONS {
        let stream = tokio::net::TcpStream::connect(harness.envoy().entry).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        for _ in 0..count {
            let request = Request::post("http://rig/package.Service/Method")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Full::new(Bytes::from_static(&MESSAGE)))
                .unwrap();
            let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
            let body = body.collect().await.unwrap();
            let by = parts.headers["x-upstream-address"].to_str().unwrap().to_owned();
            let place = servers.iter().position(|server| server.address.to_string() == by).unwrap();
            let status = body.trailers().and_then(|trailers| trailers.get("grpc-status"));
            let expected = *servers[place].status.lock().unwrap();
            assert_eq!(status.map(HeaderValue::as_bytes), Some(expected.as_bytes()), "{parts:?}");
            counts[place] += 1;
        }
    }
    counts
}

/// An Envoy that speaks HTTP/2 to these servers, and tells the plugin of gRPC failures.
async fn start(servers: &[Server], config: Value) -> Option<Harness> {
    const HTTP2: &str = "typed_extension_protocol_options: \
        {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {\"@type\": \
        type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, \
        explicit_http_config: {http2_protocol_options: {}}}}";
    const NO_ANSWER: &str = "- status_code_filter:  # no answer at all: the client went away";
    const GRPC: &str = "- grpc_status_filter: {statuses: [UNAVAILABLE, DEADLINE_EXCEEDED]}";
    let members: Vec<Endpoint> =
        servers.iter().map(|server| Endpoint::new(server.address)).collect();
    let harness = Harness::builder()
        .endpoints(0)
        .config(config)
        .edit("    eds_cluster_config:", &format!("    {HTTP2}\n    eds_cluster_config:"))
        .edit(NO_ANSWER, &format!("{GRPC}\n                  {NO_ANSWER}"))
        .start()
        .await
        .unwrap()?;
    harness.set_members(&members).unwrap();
    knows_endpoints(&harness, 3).await;
    Some(harness)
}

#[tokio::test]
async fn an_endpoint_that_is_unavailable_to_grpc_is_taken_out() {
    let servers = [Server::start().await, Server::start().await, Server::start().await];
    let config = json!({
        "membership": {"envoy_admin": {"interval": "100ms"}},
        "defaults": {"circuit_breaker": {"base_ejection_time": "60s"}},
    });
    let Some(harness) = start(&servers, config).await else { return };
    *servers[1].status.lock().unwrap() = "14";
    let out = async |h: &Harness| {
        call(h, &servers, 10).await;
        Ok(h.metric("endpoints_held_out").await? == 1)
    };
    harness.eventually("the endpoint is out", out).await.unwrap();
    let counts = call(&harness, &servers, 20).await;
    assert_eq!(counts[1], 0, "{counts:?}");
    // 13 is no failure of the endpoint
    *servers[0].status.lock().unwrap() = "13";
    let counts = call(&harness, &servers, 20).await;
    assert!(counts[0] > 60, "{counts:?}");
    expect_no_wasm_failure(&harness).await;
}

#[tokio::test]
async fn grpc_calls_are_spread_and_load_reports_in_trailers_are_heard() {
    const TOLERANCE: f64 = 0.03;
    let servers = [Server::start().await, Server::start().await, Server::start().await];
    let config = json!({
        "membership": {"envoy_admin": {"interval": "100ms"}},
        "defaults": {"orca_weights": {"blackout_period": "300ms", "weight_update_period": "100ms"}},
    });
    let Some(harness) = start(&servers, config).await else { return };

    let counts = call(&harness, &servers, 15).await;
    assert!(counts.iter().all(|count| count.abs_diff(40) <= 6), "{counts:?}");
    let planned = async |h: &Harness| Ok(h.metric("requests").await? >= 100);
    harness.eventually("the plugin chose", planned).await.unwrap();

    for (server, cpu) in servers.iter().zip([0.2, 0.4, 0.8]) {
        server.report(cpu);
    }
    let mut counts = Vec::new();
    let follow = async |h: &Harness| {
        counts = call(h, &servers, 40).await;
        let total: usize = counts.iter().sum();
        let share = |count: &usize| *count as f64 / total as f64;
        let fair = [4.0 / 7.0, 2.0 / 7.0, 1.0 / 7.0];
        Ok(counts.iter().map(share).zip(fair).all(|(got, fair)| (got - fair).abs() < TOLERANCE))
    };
    let waited = harness.eventually("calls follow the reports", follow).await;
    println!("{counts:?}");
    assert!(waited.is_ok(), "{counts:?}");
    expect_no_wasm_failure(&harness).await;
}
