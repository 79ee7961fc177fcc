//! The control port of an upstream: `GET /stats`, `GET /last-request`, `POST /fault`, `POST
//! /headers`, `POST /reset-stats`.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::fault::FaultSpec;
use super::server::{Headers, Reply, Shared};

/// Serves control requests for ever.
pub(super) async fn accept(listener: TcpListener, shared: Rc<Shared>) {
    const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(10);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let shared = Rc::clone(&shared);
        tokio::task::spawn_local(async move {
            let service = hyper::service::service_fn(move |request| {
                let shared = Rc::clone(&shared);
                async move { handle(request, &shared).await }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn handle(request: Request<Incoming>, shared: &Shared) -> Reply {
    let route = (request.method().clone(), request.uri().path().to_owned());
    let body = match request.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return reply(StatusCode::BAD_REQUEST, error.to_string()),
    };
    match (&route.0, route.1.as_str()) {
        (&Method::GET, "/stats") => json(&shared.stats()),
        (&Method::GET, "/last-request") => json(&shared.last_request()),
        (&Method::POST, "/reset-stats") => {
            shared.reset_stats();
            reply(StatusCode::OK, "{}")
        }
        (&Method::POST, "/fault") => match serde_json::from_slice::<FaultSpec>(&body) {
            Ok(spec) => {
                shared.set_fault(&spec);
                json(&spec)
            }
            Err(error) => reply(StatusCode::BAD_REQUEST, error.to_string()),
        },
        (&Method::POST, "/headers") => match serde_json::from_slice::<Headers>(&body) {
            Ok(headers) if shared.set_headers(&headers) => reply(StatusCode::OK, "{}"),
            Ok(_) => reply(StatusCode::BAD_REQUEST, "not a header"),
            Err(error) => reply(StatusCode::BAD_REQUEST, error.to_string()),
        },
        _ => reply(StatusCode::NOT_FOUND, "no such page"),
    }
}

fn json<T: serde::Serialize>(value: &T) -> Reply {
    match serde_json::to_vec(value) {
        Ok(text) => reply(StatusCode::OK, text),
        Err(error) => reply(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn reply(status: StatusCode, text: impl Into<Bytes>) -> Reply {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    Ok(response)
}
