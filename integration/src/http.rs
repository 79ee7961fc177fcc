//! A small HTTP/1.1 client, one connection per request: control ports, Envoy's admin, single
//! requests of tests.
//!
//! Load is driven by `load`, which keeps connections.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{HOST, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request};
use hyper_util::rt::TokioIo;

/// How long a request may take unless told otherwise; longer than any time-out configured in Envoy
/// here.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// A complete answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// From before the connection to after the body.
    pub elapsed: Duration,
}

impl Reply {
    /// The body as text; bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header as text, if present and UTF-8.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Name of the upstream that answered, if one did.
    #[must_use]
    pub fn upstream(&self) -> Option<&str> {
        self.header("x-upstream")
    }

    /// Address of the upstream that answered, as the upstream sees itself.
    #[must_use]
    pub fn upstream_address(&self) -> Option<SocketAddr> {
        self.header("x-upstream-address").and_then(|text| text.parse().ok())
    }
}

/// A request being built.
#[derive(Debug, Clone)]
pub struct Call {
    to: SocketAddr,
    method: Method,
    path: String,
    headers: Vec<(Bytes, Bytes)>,
    body: Bytes,
    timeout: Duration,
}

impl Call {
    /// `method path` to this address.
    #[must_use]
    pub fn new(to: SocketAddr, method: Method, path: &str) -> Self {
        let (path, headers, body) = (path.to_owned(), Vec::new(), Bytes::new());
        Self { to, method, path, headers, body, timeout: TIMEOUT }
    }

    /// Adds a header; any bytes that HTTP allows, so not only UTF-8.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let name = Bytes::copy_from_slice(name.as_bytes());
        self.headers.push((name, Bytes::copy_from_slice(value.as_ref())));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// Gives up after this long.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Sends it and reads the whole answer.
    ///
    /// # Errors
    /// When there is no complete answer in time.
    pub async fn send(self) -> anyhow::Result<Reply> {
        let (to, timeout) = (self.to, self.timeout);
        match tokio::time::timeout(timeout, self.exchange()).await {
            Ok(result) => result.with_context(|| format!("request to {to}")),
            Err(_) => bail!("request to {to}: no answer within {timeout:?}"),
        }
    }

    async fn exchange(self) -> anyhow::Result<Reply> {
        let begin = Instant::now();
        let stream = tokio::net::TcpStream::connect(self.to).await?;
        let _ = stream.set_nodelay(true);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let mut request = Request::new(Full::new(self.body));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.path.parse()?;
        for (name, value) in &self.headers {
            let name = HeaderName::from_bytes(name)?;
            request.headers_mut().append(name, HeaderValue::from_bytes(value)?);
        }
        if !request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, HeaderValue::from_str(&self.to.to_string())?);
        }
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        driver.abort();
        Ok(Reply {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
            elapsed: begin.elapsed(),
        })
    }
}

/// GET, expecting 200.
///
/// # Errors
/// When there is no answer, or another one.
pub async fn get(to: SocketAddr, path: &str) -> anyhow::Result<Bytes> {
    expect_200(Call::new(to, Method::GET, path).send().await?, path)
}

/// POST of a JSON value, expecting 200.
///
/// # Errors
/// When there is no answer, or another one.
pub async fn post<T: serde::Serialize>(
    to: SocketAddr,
    path: &str,
    body: &T,
) -> anyhow::Result<Bytes> {
    let call = Call::new(to, Method::POST, path).body(serde_json::to_vec(body)?);
    expect_200(call.send().await?, path)
}

fn expect_200(reply: Reply, path: &str) -> anyhow::Result<Bytes> {
    if reply.status != 200 {
        bail!("{path}: {} {}", reply.status, reply.text());
    }
    Ok(reply.body)
}
