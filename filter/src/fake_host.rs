//! A host in memory that can misbehave.
//!
//! It knows phases (a header map exists only in some callbacks), shared data with versions, and
//! metrics for the whole "process": clones share everything, as workers of one Envoy do. `broken`
//! makes every call fail with a status of the test's choice.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use outrigger_policy::time::Instant;

use crate::head;
use crate::host::{Failure, Host, Level, Map, MetricKind, Outcome};

type Headers = Vec<(Vec<u8>, Vec<u8>)>;

/// Everything behind a fake host.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) configuration: RefCell<Vec<u8>>,
    pub(crate) request: RefCell<Option<Headers>>,
    pub(crate) call_response: RefCell<Option<Headers>>,
    pub(crate) response: RefCell<Option<Headers>>,
    pub(crate) trailers: RefCell<Option<Headers>>,
    pub(crate) body: RefCell<Vec<u8>>,
    pub(crate) properties: RefCell<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// What the plugin set for the stream.
    pub(crate) stream_properties: RefCell<Vec<(Vec<u8>, Vec<u8>)>>,
    pub(crate) now: Cell<u64>,
    pub(crate) shared: RefCell<BTreeMap<String, (Vec<u8>, u32)>>,
    pub(crate) metrics: RefCell<Vec<(String, u64)>>,
    pub(crate) calls: RefCell<Vec<(String, String)>>,
    pub(crate) tick_ms: Cell<u32>,
    pub(crate) log: RefCell<Vec<String>>,
    /// Every call fails with this.
    pub(crate) broken: Cell<Option<Failure>>,
    /// How many calls were made.
    pub(crate) used: Cell<u64>,
    /// Only the call with this number fails.
    pub(crate) fails_at: Cell<Option<u64>>,
    /// Bytes handed out in place of the real header map.
    pub(crate) forged_map: RefCell<Option<Vec<u8>>>,
}

/// One worker's view of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeHost(pub(crate) Rc<State>);

impl FakeHost {
    pub(crate) fn configured(json: &str) -> Self {
        let host = Self::default();
        host.0.now.set(1_000_000_000_000);
        *host.0.configuration.borrow_mut() = json.as_bytes().to_vec();
        host
    }

    pub(crate) fn set_request(&self, headers: &[(&[u8], &[u8])]) {
        let owned = headers.iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
        *self.0.request.borrow_mut() = Some(owned);
    }

    pub(crate) fn request_header(&self, name: &str) -> Vec<String> {
        let headers = self.0.request.borrow();
        let all = headers.iter().flatten().filter(|(key, _)| key == name.as_bytes());
        all.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }

    pub(crate) fn set_property(&self, path: &[u8], value: &[u8]) {
        self.0.properties.borrow_mut().insert(path.to_vec(), value.to_vec());
    }

    pub(crate) fn advance(&self, ms: u64) {
        self.0.now.set(self.0.now.get() + ms * 1_000_000);
    }

    pub(crate) fn metric_value(&self, name: &str) -> u64 {
        let metrics = self.0.metrics.borrow();
        metrics.iter().filter(|(known, _)| known == name).map(|(_, value)| value).sum()
    }

    fn check(&self) -> Outcome<()> {
        let number = self.0.used.get();
        self.0.used.set(number + 1);
        match self.0.broken.get() {
            Some(failure) => Err(failure),
            None if self.0.fails_at.get() == Some(number) => Err(Failure::Other(10)),
            None => Ok(()),
        }
    }

    fn map(&self, map: Map) -> &RefCell<Option<Headers>> {
        match map {
            Map::Request => &self.0.request,
            Map::CallResponse => &self.0.call_response,
            Map::Response => &self.0.response,
            Map::ResponseTrailers => &self.0.trailers,
        }
    }
}

impl Host for FakeHost {
    fn configuration(&self) -> Outcome<Vec<u8>> {
        self.check()?;
        Ok(self.0.configuration.borrow().clone())
    }

    fn header_map(&self, map: Map) -> Outcome<Vec<u8>> {
        self.check()?;
        if let Some(forged) = &*self.0.forged_map.borrow() {
            return Ok(forged.clone());
        }
        let headers = self.map(map).borrow();
        let headers = headers.as_ref().ok_or(Failure::BadArgument)?;
        let pairs: Vec<(&[u8], &[u8])> =
            headers.iter().map(|(k, v)| (k.as_slice(), v.as_slice())).collect();
        Ok(head::serialize(&pairs))
    }

    fn header(&self, map: Map, name: &[u8]) -> Outcome<Vec<u8>> {
        self.check()?;
        let headers = self.map(map).borrow();
        let headers = headers.as_ref().ok_or(Failure::BadArgument)?;
        let found = headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.clone()).ok_or(Failure::NotFound)
    }

    fn add_request_header(&self, name: &[u8], value: &[u8]) -> Outcome<()> {
        self.check()?;
        let mut headers = self.0.request.borrow_mut();
        headers.as_mut().ok_or(Failure::BadArgument)?.push((name.to_vec(), value.to_vec()));
        Ok(())
    }

    fn set_request_header(&self, name: &[u8], value: &[u8]) -> Outcome<()> {
        self.check()?;
        let mut headers = self.0.request.borrow_mut();
        let headers = headers.as_mut().ok_or(Failure::BadArgument)?;
        headers.retain(|(key, _)| key != name);
        headers.push((name.to_vec(), value.to_vec()));
        Ok(())
    }

    fn remove_request_header(&self, name: &[u8]) -> Outcome<()> {
        self.check()?;
        let mut headers = self.0.request.borrow_mut();
        headers.as_mut().ok_or(Failure::BadArgument)?.retain(|(key, _)| key != name);
        Ok(())
    }

    fn property(&self, path: &[u8]) -> Outcome<Vec<u8>> {
        self.check()?;
        self.0.properties.borrow().get(path).cloned().ok_or(Failure::NotFound)
    }

    fn now(&self) -> Instant {
        Instant(self.0.now.get())
    }

    fn shared(&self, key: &str) -> Outcome<(Vec<u8>, u32)> {
        self.check()?;
        self.0.shared.borrow().get(key).cloned().ok_or(Failure::NotFound)
    }

    fn set_shared(&self, key: &str, value: &[u8], version: u32) -> Outcome<()> {
        self.check()?;
        let mut shared = self.0.shared.borrow_mut();
        let present = shared.get(key).map(|(_, present)| *present);
        if version != 0 && present.is_some_and(|present| present != version) {
            return Err(Failure::CasMismatch);
        }
        let next = present.unwrap_or(0) + 1;
        shared.insert(key.to_owned(), (value.to_vec(), next));
        Ok(())
    }

    fn set_stream_property(&self, path: &[u8], value: &[u8]) -> Outcome<()> {
        self.check()?;
        self.0.stream_properties.borrow_mut().push((path.to_vec(), value.to_vec()));
        Ok(())
    }

    fn set_effective_context(&self, _: u32) -> Outcome<()> {
        self.check()
    }

    fn define_metric(&self, _: MetricKind, name: &str) -> Outcome<u32> {
        self.check()?;
        let mut metrics = self.0.metrics.borrow_mut();
        metrics.push((name.to_owned(), 0));
        Ok(u32::try_from(metrics.len()).unwrap() - 1)
    }

    fn add_to_metric(&self, metric: u32, by: i64) -> Outcome<()> {
        self.check()?;
        let by = u64::try_from(by).ok().filter(|by| *by > 0).ok_or(Failure::BadArgument)?;
        let mut metrics = self.0.metrics.borrow_mut();
        metrics.get_mut(metric as usize).ok_or(Failure::NotFound)?.1 += by;
        Ok(())
    }

    fn set_metric(&self, metric: u32, value: u64) -> Outcome<()> {
        self.check()?;
        let mut metrics = self.0.metrics.borrow_mut();
        metrics.get_mut(metric as usize).ok_or(Failure::NotFound)?.1 = value;
        Ok(())
    }

    fn metric(&self, metric: u32) -> Outcome<u64> {
        self.check()?;
        let metrics = self.0.metrics.borrow();
        // two workers that define the same name share one value
        let name = &metrics.get(metric as usize).ok_or(Failure::NotFound)?.0;
        Ok(self.metric_value(name))
    }

    fn call(&self, cluster: &str, path: &str, _: u32) -> Outcome<u32> {
        self.check()?;
        let mut calls = self.0.calls.borrow_mut();
        calls.push((cluster.to_owned(), path.to_owned()));
        Ok(u32::try_from(calls.len()).unwrap())
    }

    fn call_body(&self, size: usize) -> Outcome<Vec<u8>> {
        self.check()?;
        let body = self.0.body.borrow();
        Ok(body[..body.len().min(size)].to_vec())
    }

    fn set_tick_period(&self, ms: u32) -> Outcome<()> {
        self.check()?;
        self.0.tick_ms.set(ms);
        Ok(())
    }

    fn log(&self, level: Level, message: &str) {
        self.0.log.borrow_mut().push(format!("{level:?}: {message}"));
    }
}
