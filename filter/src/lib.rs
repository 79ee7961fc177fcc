//! Outrigger as Envoy loads it: speaks proxy-wasm, decides nothing.
//!
//! [`host`] names every host call, [`apply`] every way to steer Envoy, [`worker`] turns callbacks
//! into calls of the policy's engine and back, [`asked`] is what the engine may ask meanwhile, and
//! [`contexts`] finds the worker of a callback. `abi` is what Envoy calls and exists only in the
//! wasm build.

pub mod apply;
pub mod asked;
pub mod contexts;
pub mod head;
pub mod host;
pub mod metrics;
pub mod poll;
pub mod shared;
pub mod worker;

#[cfg(target_arch = "wasm32")]
mod abi;

#[cfg(test)]
mod fake_host;
#[cfg(test)]
mod tests;
