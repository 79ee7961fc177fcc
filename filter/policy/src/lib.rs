//! Everything Outrigger decides, and nothing it touches.
//!
//! The modules are the pipeline, in order; a stage uses only the stages before it, and only
//! [`engine`] sees them all:
//!
//! 1. [`config`]: the user's JSON becomes a validated `Config`
//! 2. [`membership`]: bytes of a membership source become endpoint sets
//! 3. [`state`]: what is known of each endpoint (circuit breaker, windows)
//! 4. [`pick`]: an order of distinct endpoints for a key
//! 5. [`attempt`]: which of them a request may try, and how often, under one budget
//! 6. [`outcome`]: what an attempt's end says about its endpoint
//!
//! Time and randomness are arguments, so that every decision can be replayed; there is no
//! clock, no I/O, no logging, no global and no proxy-wasm here.
#![forbid(unsafe_code)]

extern crate alloc;

pub mod attempt;
pub mod config;
pub mod engine;
pub mod hash;
pub mod membership;
pub mod metrics;
pub mod outcome;
pub mod pick;
pub mod rewrite;
pub mod rng;
pub mod state;
pub mod time;
