//! Envoy as the plugin sees it: the only file that names host calls.
//!
//! The SDK's own getters return `String` and panic on bytes that are not UTF-8, and its helpers
//! panic on statuses they do not expect; a client can choose both. So the calls of the proxy-wasm
//! ABI 0.2.1 are declared here again, take and give bytes, and map every status. The trait is
//! what the rest of the adapter knows, so that tests can put a misbehaving host behind it.

use outrigger_policy::time::Instant;

/// A status other than `Ok`, as the ABI numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// 1: no such key, property, cluster or phase.
    NotFound,
    /// 2: also "not in this phase".
    BadArgument,
    /// 8: the value was changed by somebody else.
    CasMismatch,
    /// Any other status.
    Other(i32),
}

/// The result of a host call.
pub type Outcome<T> = Result<T, Failure>;

/// Which header map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    /// The request's.
    Request = 0,
    /// The answer's.
    Response = 2,
    /// Those that follow the answer's body.
    ResponseTrailers = 3,
    /// Those of the answer to our own call.
    CallResponse = 6,
}

/// Severity of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something an operator may want to know.
    Info = 2,
    /// Something is not as it should be; the plugin goes on.
    Warn = 3,
    /// A configuration was refused.
    Error = 4,
}

/// Whether a metric only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter = 0,
    /// Goes up and down.
    Gauge = 1,
}

/// Every host call that the plugin makes.
pub trait Host {
    /// The plugin's configuration; only while it is configured.
    fn configuration(&self) -> Outcome<Vec<u8>>;
    /// A whole header map in the ABI's serialised form.
    fn header_map(&self, map: Map) -> Outcome<Vec<u8>>;
    /// The value of one header; several values are joined by commas.
    fn header(&self, map: Map, name: &[u8]) -> Outcome<Vec<u8>>;
    /// Adds a request header that is not there yet; cheaper than setting it.
    fn add_request_header(&self, name: &[u8], value: &[u8]) -> Outcome<()>;
    /// Sets a request header, replacing every value it has.
    fn set_request_header(&self, name: &[u8], value: &[u8]) -> Outcome<()>;
    /// Removes a request header.
    fn remove_request_header(&self, name: &[u8]) -> Outcome<()>;
    /// A property; `path` has its parts separated by NUL.
    fn property(&self, path: &[u8]) -> Outcome<Vec<u8>>;
    /// Sets a property of the stream, which Envoy keeps as filter state `wasm.<path>`.
    fn set_stream_property(&self, path: &[u8], value: &[u8]) -> Outcome<()>;
    /// Has the calls that follow mean another context.
    fn set_effective_context(&self, context: u32) -> Outcome<()>;
    /// Nanoseconds since 1970.
    fn now(&self) -> Instant;
    /// A value of the process's shared data, and its version.
    fn shared(&self, key: &str) -> Outcome<(Vec<u8>, u32)>;
    /// Writes shared data: always with version 0, else only over that version.
    fn set_shared(&self, key: &str, value: &[u8], version: u32) -> Outcome<()>;
    /// Defines a metric; each name once, because every call costs memory for good.
    fn define_metric(&self, kind: MetricKind, name: &str) -> Outcome<u32>;
    /// Adds to a metric.
    fn add_to_metric(&self, metric: u32, by: i64) -> Outcome<()>;
    /// Sets a gauge.
    fn set_metric(&self, metric: u32, value: u64) -> Outcome<()>;
    /// Reads a metric, summed over all workers.
    fn metric(&self, metric: u32) -> Outcome<u64>;
    /// `GET path` from `cluster`; the answer comes as a callback with the number returned here.
    fn call(&self, cluster: &str, path: &str, timeout_ms: u32) -> Outcome<u32>;
    /// The body of the answer to our own call, `size` bytes at most.
    fn call_body(&self, size: usize) -> Outcome<Vec<u8>>;
    /// Asks for a tick every `ms`.
    fn set_tick_period(&self, ms: u32) -> Outcome<()>;
    /// Writes to Envoy's log.
    fn log(&self, level: Level, message: &str);
}

/// The failure that a status means.
pub const fn failure(status: i32) -> Failure {
    match status {
        1 => Failure::NotFound,
        2 => Failure::BadArgument,
        8 => Failure::CasMismatch,
        other => Failure::Other(other),
    }
}

#[cfg(target_arch = "wasm32")]
pub use envoy::Envoy;

#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code)]
mod envoy {
    use core::ptr::null_mut;

    use super::{Failure, Host, Instant, Level, Map, MetricKind, Outcome, failure};

    const BUFFER_CALL_BODY: i32 = 4;
    const BUFFER_CONFIGURATION: i32 = 7;

    #[link(wasm_import_module = "env")]
    unsafe extern "C" {
        fn proxy_log(level: i32, message: *const u8, size: usize) -> i32;
        fn proxy_get_current_time_nanoseconds(time: *mut u64) -> i32;
        fn proxy_set_tick_period_milliseconds(period: u32) -> i32;
        fn proxy_get_buffer_bytes(
            buffer: i32,
            start: usize,
            length: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> i32;
        fn proxy_get_header_map_pairs(map: i32, data: *mut *mut u8, size: *mut usize) -> i32;
        fn proxy_get_header_map_value(
            map: i32,
            name: *const u8,
            name_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> i32;
        fn proxy_add_header_map_value(
            map: i32,
            name: *const u8,
            name_size: usize,
            value: *const u8,
            value_size: usize,
        ) -> i32;
        fn proxy_replace_header_map_value(
            map: i32,
            name: *const u8,
            name_size: usize,
            value: *const u8,
            value_size: usize,
        ) -> i32;
        fn proxy_remove_header_map_value(map: i32, name: *const u8, name_size: usize) -> i32;
        fn proxy_get_property(
            path: *const u8,
            path_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> i32;
        fn proxy_set_property(
            path: *const u8,
            path_size: usize,
            value: *const u8,
            value_size: usize,
        ) -> i32;
        fn proxy_set_effective_context(context: u32) -> i32;
        fn proxy_get_shared_data(
            key: *const u8,
            key_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
            version: *mut u32,
        ) -> i32;
        fn proxy_set_shared_data(
            key: *const u8,
            key_size: usize,
            value: *const u8,
            value_size: usize,
            version: u32,
        ) -> i32;
        fn proxy_define_metric(kind: i32, name: *const u8, size: usize, id: *mut u32) -> i32;
        fn proxy_increment_metric(id: u32, by: i64) -> i32;
        fn proxy_record_metric(id: u32, value: u64) -> i32;
        fn proxy_get_metric(id: u32, value: *mut u64) -> i32;
        fn proxy_http_call(
            upstream: *const u8,
            upstream_size: usize,
            headers: *const u8,
            headers_size: usize,
            body: *const u8,
            body_size: usize,
            trailers: *const u8,
            trailers_size: usize,
            timeout_ms: u32,
            token: *mut u32,
        ) -> i32;
    }

    const fn done(status: i32) -> Outcome<()> {
        if status == 0 { Ok(()) } else { Err(failure(status)) }
    }

    /// Runs a call that hands over a block of memory, and owns the block.
    fn bytes(call: impl FnOnce(*mut *mut u8, *mut usize) -> i32) -> Outcome<Vec<u8>> {
        let (mut data, mut size) = (null_mut::<u8>(), 0_usize);
        done(call(&raw mut data, &raw mut size))?;
        if data.is_null() {
            return Ok(Vec::new());
        }
        // SAFETY: the host obtained the block of `size` bytes from this module's
        // `proxy_on_memory_allocate`, which makes it as a `Vec<u8>` of that capacity, filled it
        // and gave up every claim to it.
        Ok(unsafe { Vec::from_raw_parts(data, size, size) })
    }

    /// The real host.
    #[derive(Clone, Copy, Debug)]
    pub struct Envoy;

    // SAFETY of every call below: pointers and sizes describe live slices or variables of this
    // module, and the host neither keeps them nor writes beyond them.
    impl Host for Envoy {
        fn configuration(&self) -> Outcome<Vec<u8>> {
            bytes(|data, size| unsafe {
                proxy_get_buffer_bytes(BUFFER_CONFIGURATION, 0, usize::MAX, data, size)
            })
        }

        fn header_map(&self, map: Map) -> Outcome<Vec<u8>> {
            bytes(|data, size| unsafe { proxy_get_header_map_pairs(map as i32, data, size) })
        }

        fn header(&self, map: Map, name: &[u8]) -> Outcome<Vec<u8>> {
            bytes(|data, size| unsafe {
                proxy_get_header_map_value(map as i32, name.as_ptr(), name.len(), data, size)
            })
        }

        fn add_request_header(&self, name: &[u8], value: &[u8]) -> Outcome<()> {
            done(unsafe {
                proxy_add_header_map_value(
                    Map::Request as i32,
                    name.as_ptr(),
                    name.len(),
                    value.as_ptr(),
                    value.len(),
                )
            })
        }

        fn set_request_header(&self, name: &[u8], value: &[u8]) -> Outcome<()> {
            done(unsafe {
                proxy_replace_header_map_value(
                    Map::Request as i32,
                    name.as_ptr(),
                    name.len(),
                    value.as_ptr(),
                    value.len(),
                )
            })
        }

        fn remove_request_header(&self, name: &[u8]) -> Outcome<()> {
            done(unsafe {
                proxy_remove_header_map_value(Map::Request as i32, name.as_ptr(), name.len())
            })
        }

        fn property(&self, path: &[u8]) -> Outcome<Vec<u8>> {
            bytes(|data, size| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, size) })
        }

        fn set_stream_property(&self, path: &[u8], value: &[u8]) -> Outcome<()> {
            done(unsafe {
                proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len())
            })
        }

        fn set_effective_context(&self, context: u32) -> Outcome<()> {
            done(unsafe { proxy_set_effective_context(context) })
        }

        fn now(&self) -> Instant {
            let mut time = 0;
            match unsafe { proxy_get_current_time_nanoseconds(&raw mut time) } {
                0 => Instant(time),
                _ => Instant::ZERO,
            }
        }

        fn shared(&self, key: &str) -> Outcome<(Vec<u8>, u32)> {
            let mut version = 0;
            let value = bytes(|data, size| unsafe {
                proxy_get_shared_data(key.as_ptr(), key.len(), data, size, &raw mut version)
            })?;
            Ok((value, version))
        }

        fn set_shared(&self, key: &str, value: &[u8], version: u32) -> Outcome<()> {
            done(unsafe {
                proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), version)
            })
        }

        fn define_metric(&self, kind: MetricKind, name: &str) -> Outcome<u32> {
            let mut id = 0;
            done(unsafe {
                proxy_define_metric(kind as i32, name.as_ptr(), name.len(), &raw mut id)
            })?;
            Ok(id)
        }

        fn add_to_metric(&self, metric: u32, by: i64) -> Outcome<()> {
            done(unsafe { proxy_increment_metric(metric, by) })
        }

        fn set_metric(&self, metric: u32, value: u64) -> Outcome<()> {
            done(unsafe { proxy_record_metric(metric, value) })
        }

        fn metric(&self, metric: u32) -> Outcome<u64> {
            let mut value = 0;
            done(unsafe { proxy_get_metric(metric, &raw mut value) })?;
            Ok(value)
        }

        fn call(&self, cluster: &str, path: &str, timeout_ms: u32) -> Outcome<u32> {
            let headers = crate::head::serialize(&[
                (b":method", b"GET"),
                (b":path", path.as_bytes()),
                (b":authority", b"outrigger"),
            ]);
            let trailers = crate::head::serialize(&[]);
            let mut token = 0;
            done(unsafe {
                proxy_http_call(
                    cluster.as_ptr(),
                    cluster.len(),
                    headers.as_ptr(),
                    headers.len(),
                    core::ptr::null(),
                    0,
                    trailers.as_ptr(),
                    trailers.len(),
                    timeout_ms,
                    &raw mut token,
                )
            })?;
            Ok(token)
        }

        fn call_body(&self, size: usize) -> Outcome<Vec<u8>> {
            bytes(|data, length| unsafe {
                proxy_get_buffer_bytes(BUFFER_CALL_BODY, 0, size, data, length)
            })
        }

        fn set_tick_period(&self, ms: u32) -> Outcome<()> {
            done(unsafe { proxy_set_tick_period_milliseconds(ms) })
        }

        fn log(&self, level: Level, message: &str) {
            // a log line that is not taken is no reason to do anything
            let _: Result<(), Failure> =
                done(unsafe { proxy_log(level as i32, message.as_ptr(), message.len()) });
        }
    }
}
