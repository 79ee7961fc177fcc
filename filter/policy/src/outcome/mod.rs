//! Stage 6: what the end of an attempt says about its endpoint.

pub mod flights;
pub mod ledger;

/// How an attempt ended, as far as its endpoint is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The endpoint answered, and not with a gateway error.
    Success,
    /// No connection came about: nothing was sent.
    ConnectFailure,
    /// The connection or stream broke.
    Reset,
    /// No answer within the per-try time-out.
    Timeout,
    /// 502, 503 or 504, or a gRPC status that means 503 or 504.
    GatewayError,
    /// It ended for a reason that says nothing of the endpoint (overflow, no route, the client
    /// went away).
    NotTheEndpoint,
}

impl Class {
    /// Whether it counts against the endpoint.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        !matches!(self, Self::Success | Self::NotTheEndpoint)
    }

    /// Whether nothing can have been processed, so that every request may be sent again.
    #[must_use]
    pub const fn nothing_was_sent(self) -> bool {
        matches!(self, Self::ConnectFailure)
    }
}

/// Envoy's `StreamInfo::CoreResponseFlag` bits (envoy/stream_info/stream_info.h).
mod flag {
    pub(super) const UPSTREAM_REQUEST_TIMEOUT: u64 = 1 << 2;
    pub(super) const LOCAL_RESET: u64 = 1 << 3;
    pub(super) const UPSTREAM_REMOTE_RESET: u64 = 1 << 4;
    pub(super) const UPSTREAM_CONNECTION_FAILURE: u64 = 1 << 5;
    pub(super) const UPSTREAM_CONNECTION_TERMINATION: u64 = 1 << 6;
    pub(super) const UPSTREAM_OVERFLOW: u64 = 1 << 7;
    pub(super) const UPSTREAM_PROTOCOL_ERROR: u64 = 1 << 23;
}

/// gRPC statuses that Envoy takes for 504 and 503 (`Grpc::Utility::grpcToHttpStatus`); the others
/// that it takes for 5xx say that the endpoint answered.
const GRPC_DEADLINE_EXCEEDED: u64 = 4;
const GRPC_UNAVAILABLE: u64 = 14;

/// The class of an attempt with these response flags, this status (0: none) and this gRPC status
/// (0: well, or no gRPC).
#[must_use]
pub const fn classify(flags: u64, status: u64, grpc_status: u64) -> Class {
    use flag::{
        LOCAL_RESET, UPSTREAM_CONNECTION_FAILURE, UPSTREAM_CONNECTION_TERMINATION,
        UPSTREAM_OVERFLOW, UPSTREAM_PROTOCOL_ERROR, UPSTREAM_REMOTE_RESET,
        UPSTREAM_REQUEST_TIMEOUT,
    };
    const RESET: u64 = LOCAL_RESET
        | UPSTREAM_REMOTE_RESET
        | UPSTREAM_CONNECTION_TERMINATION
        | UPSTREAM_PROTOCOL_ERROR;
    if flags & UPSTREAM_OVERFLOW != 0 {
        Class::NotTheEndpoint
    } else if flags & UPSTREAM_CONNECTION_FAILURE != 0 {
        Class::ConnectFailure
    } else if flags & UPSTREAM_REQUEST_TIMEOUT != 0 {
        Class::Timeout
    } else if flags & RESET != 0 {
        Class::Reset
    } else if flags != 0 {
        Class::NotTheEndpoint
    } else {
        match (status, grpc_status) {
            (502..=504, _) => Class::GatewayError,
            (0, _) => Class::NotTheEndpoint,
            (_, GRPC_DEADLINE_EXCEEDED | GRPC_UNAVAILABLE) => Class::GatewayError,
            _ => Class::Success,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_failures_that_were_seen_on_envoy_are_told_apart() {
        let rows = [
            (32, 0, Class::ConnectFailure),
            (64, 0, Class::Reset),
            (4, 0, Class::Timeout),
            (4, 504, Class::Timeout),
            (16, 0, Class::Reset),
            (128, 0, Class::NotTheEndpoint),
            (0x4000, 0, Class::NotTheEndpoint),
            (0, 503, Class::GatewayError),
            (0, 500, Class::Success),
            (0, 200, Class::Success),
            (0, 0, Class::NotTheEndpoint),
            (1 << 40, 200, Class::NotTheEndpoint),
        ];
        for (flags, status, class) in rows {
            assert_eq!(classify(flags, status, 0), class, "flags {flags:#x}, status {status}");
        }
    }

    #[test]
    fn a_grpc_status_that_means_503_or_504_is_a_gateway_error_and_no_other_is() {
        for grpc_status in 0..=20 {
            let failed = grpc_status == 4 || grpc_status == 14;
            let class = if failed { Class::GatewayError } else { Class::Success };
            assert_eq!(classify(0, 200, grpc_status), class, "{grpc_status}");
        }
    }

    #[test]
    fn only_a_connect_failure_has_sent_nothing() {
        assert!(Class::ConnectFailure.nothing_was_sent());
        for class in [Class::Reset, Class::Timeout, Class::GatewayError] {
            assert!(class.is_failure() && !class.nothing_was_sent());
        }
    }
}
