//! The lines of one host in Envoy's `/clusters`, as they become an [`Endpoint`].

use super::{Endpoint, Health, Locality, decode::DecodeReason};
use crate::config::limits::NAME_BYTES;

/// Longest locality part that is kept, in bytes; Envoy sets no limit of its own.
const LOCALITY_BYTES_MAX: usize = *NAME_BYTES.end();

/// The lines of one host that matter. Each `Option` is a line that every host has, so that a host
/// cut short is noticed.
pub(super) struct Host<'a> {
    pub(super) address: &'a str,
    health: Option<Health>,
    weight: Option<u32>,
    region: Option<&'a str>,
    zone: Option<&'a str>,
    sub_zone: Option<&'a str>,
    priority: Option<u32>,
    /// Not required: a build of Envoy without this gauge still has a membership.
    rq_active: Option<u32>,
}

impl<'a> Host<'a> {
    pub(super) const fn new(address: &'a str) -> Self {
        Self {
            address,
            health: None,
            weight: None,
            region: None,
            zone: None,
            sub_zone: None,
            priority: None,
            rq_active: None,
        }
    }

    /// Takes in `name::value`; false, with nothing changed, when this host has that line already.
    pub(super) fn line(&mut self, line: &'a str) -> Result<bool, DecodeReason> {
        let after = |name: &str| line.strip_prefix(name).and_then(|v| v.strip_prefix("::"));
        // By the first byte, because most of a host's lines are of no interest.
        Ok(match line.bytes().next() {
            Some(b'r') => match after("rq_active") {
                Some(value) => put(&mut self.rq_active, load(value)?),
                None => after("region").is_none_or(|value| put(&mut self.region, value)),
            },
            Some(b'h') => after("health_flags")
                .is_none_or(|value| put(&mut self.health, Health::from_words(value))),
            Some(b'w') => match after("weight") {
                Some(value) => put(&mut self.weight, number("weight", value, 1)?),
                None => true,
            },
            Some(b'z') => after("zone").is_none_or(|value| put(&mut self.zone, value)),
            Some(b's') => after("sub_zone").is_none_or(|value| put(&mut self.sub_zone, value)),
            Some(b'p') => match after("priority") {
                Some(value) => put(&mut self.priority, number("priority", value, 0)?),
                None => true,
            },
            _ => true,
        })
    }

    pub(super) fn is_complete(&self) -> Result<(), DecodeReason> {
        let lines = [
            ("health_flags", self.health.is_some()),
            ("weight", self.weight.is_some()),
            ("region", self.region.is_some()),
            ("zone", self.zone.is_some()),
            ("sub_zone", self.sub_zone.is_some()),
            ("priority", self.priority.is_some()),
        ];
        let missing = lines.into_iter().find(|(_, there)| !there);
        missing.map_or(Ok(()), |(missing, _)| Err(DecodeReason::HostIncomplete { missing }))
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        let part = |value: Option<&str>| {
            let value = value.unwrap_or_default();
            value.get(..value.floor_char_boundary(LOCALITY_BYTES_MAX)).unwrap_or_default().into()
        };
        Endpoint {
            address: self.address.into(),
            weight: self.weight.unwrap_or(1),
            priority: self.priority.unwrap_or(0),
            locality: Locality {
                region: part(self.region),
                zone: part(self.zone),
                sub_zone: part(self.sub_zone),
            },
            health: self.health.unwrap_or(Health::HEALTHY),
            rq_active: self.rq_active.unwrap_or(0),
            metadata: Vec::new(),
        }
    }
}

fn put<T>(slot: &mut Option<T>, value: T) -> bool {
    let is_new = slot.is_none();
    if is_new {
        *slot = Some(value);
    }
    is_new
}

fn number(name: &'static str, value: &str, least: u32) -> Result<u32, DecodeReason> {
    value.parse().ok().filter(|number| *number >= least).ok_or(DecodeReason::BadValue { name })
}

/// A gauge of Envoy is a `u64` that can wrap below zero for an instant: near its top it means 0.
fn load(value: &str) -> Result<u32, DecodeReason> {
    let value: u64 = value.parse().map_err(|_| DecodeReason::BadValue { name: "rq_active" })?;
    Ok(if value > u64::MAX / 2 { 0 } else { u32::try_from(value).unwrap_or(u32::MAX) })
}
