//! A plugin that does nothing, by the SDK: the arm that `make bench` compares Outrigger with.
//!
//! What remains of Outrigger's cost after this one is its own; the rest is what any plugin pays
//! that is written with the SDK and exports all its callbacks. A workspace of its own, because
//! nothing of the product depends on the SDK.

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;

struct Empty;

impl Context for Empty {}

impl HttpContext for Empty {}

impl RootContext for Empty {
    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Self))
    }
}

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Empty));
}}
