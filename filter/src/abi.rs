//! The exports that Envoy calls: proxy-wasm ABI 0.2.1, and only what the plugin needs of it.
//!
//! The SDK's dispatcher is not used: it panics on a callback it does not expect (an unknown
//! number of a context or a call), and exports every callback there is, each of which Envoy then
//! makes for each request.

#![allow(unsafe_code)]

use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher, RandomState};

use crate::contexts::Contexts;
use crate::host::{Envoy, Host};

/// `Action::Continue`.
const CONTINUE: u32 = 0;

thread_local! {
    static CONTEXTS: RefCell<Contexts<Envoy>> = RefCell::new(Contexts::new(Envoy, seed()));
}

/// WASI's `random_get`, by way of the standard library's own hasher.
fn seed() -> u64 {
    RandomState::new().build_hasher().finish() ^ Envoy.now().0
}

/// Runs a callback; a callback within another (a host that re-enters the VM) is left alone.
fn with<T>(missed: T, callback: impl FnOnce(&mut Contexts<Envoy>) -> T) -> T {
    CONTEXTS.with(|contexts| match contexts.try_borrow_mut() {
        Ok(mut contexts) => callback(&mut contexts),
        Err(_) => missed,
    })
}

// SAFETY of the names: they are the ABI's own, and nothing else in this module has them.

#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    unsafe extern "C" {
        fn __wasm_call_ctors();
    }
    // SAFETY: Envoy calls this once, before anything else.
    unsafe { __wasm_call_ctors() }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    // the host fills it and hands it to `host::bytes`, which owns it with this very size
    Box::into_raw(Box::<[u8]>::new_uninit_slice(size)).cast()
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_vm_start(_: u32, _: usize) -> bool {
    true
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(context: u32, parent: u32) {
    with((), |contexts| contexts.on_create(context, parent));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(root: u32, _: usize) -> bool {
    with(false, |contexts| contexts.on_configure(root))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(root: u32) {
    with((), |contexts| contexts.on_tick(root));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_http_call_response(
    root: u32,
    call: u32,
    headers: usize,
    body: usize,
    _: usize,
) {
    with((), |contexts| contexts.on_call_answered(root, call, headers, body));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(context: u32, _: usize, _: bool) -> u32 {
    with((), |contexts| contexts.on_request_headers(context));
    CONTINUE
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_log(context: u32) {
    with((), |contexts| contexts.on_log(context));
}
