//! How much traffic stays in this proxy's own zone, and where the rest goes.
//!
//! As much as possible stays, under the condition that every upstream endpoint gets the same
//! when all proxies of the local cluster do likewise. If a zone has a smaller part of the proxies
//! than of the upstream endpoints, its proxies keep all they send. If it has a larger part, they
//! keep what the zone's endpoints can take, and spread the rest over the zones that have capacity
//! left, in proportion to that.
//!
//! This is Envoy's zone aware routing (`ZoneAwareLoadBalancerBase` in `load_balancer_impl.cc`,
//! `regenerateLocalityRoutingStructures` and `tryChooseLocalLocalityHosts`), in its integers of a
//! hundredth of a percent. One thing differs: where rounding leaves no capacity at all, Envoy
//! picks a zone at random, which may be an empty one; here zones do not matter then.
//!
//! It holds for priority 0 while that is not in panic; whoever asks has to see to both.

use crate::config::ZoneAware;
use crate::rng::Rng;

/// The whole, in hundredths of a percent.
const WHOLE: u64 = 10_000;

/// One zone (Envoy: locality), as both clusters see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// Endpoints of the upstream cluster, priority 0.
    pub upstream: u32,
    /// Those of them that are healthy.
    pub upstream_healthy: u32,
    /// Endpoints of the cluster that this proxy belongs to.
    pub local: u32,
    /// Those of them that are healthy.
    pub local_healthy: u32,
}

/// Why zones do not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// One of the two clusters is in one zone only.
    OneZone,
    /// The local cluster has no endpoint in this proxy's own zone, or it is not known which that
    /// is (Envoy counts this as `lb_local_cluster_not_ok`).
    NoLocalZone,
    /// The local cluster is in panic (likewise).
    LocalPanic,
    /// The upstream cluster has fewer than `min_cluster_size` healthy endpoints
    /// (`lb_zone_cluster_too_small`).
    SmallCluster,
}

/// Where requests of this proxy go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routing {
    /// Anywhere.
    Off(Reason),
    /// To this proxy's own zone, all of them.
    Direct {
        /// Its index.
        local: u32,
    },
    /// To this proxy's own zone as much as it can take, the rest to others.
    Residual {
        /// Its index.
        local: u32,
        /// What stays there, in hundredths of a percent.
        local_percent_to_route: u64,
        /// For each zone its capacity left plus that of all zones before it.
        residual_capacity: Vec<u64>,
    },
}

impl Routing {
    /// Works out where requests go. `zones`: every zone in which either cluster has an endpoint;
    /// `local`: the index of this proxy's own; `healthy_panic_threshold` in percent.
    #[must_use]
    pub fn new(
        zones: &[Zone],
        local: Option<u32>,
        settings: &ZoneAware,
        healthy_panic_threshold: u32,
    ) -> Self {
        let own = local.and_then(|local| Some((local, zones.get(local as usize)?)));
        let Some((local, own)) = own.filter(|(_, own)| own.local > 0) else {
            return Self::Off(Reason::NoLocalZone);
        };
        if let Some(reason) = off(zones, settings, healthy_panic_threshold) {
            return Self::Off(reason);
        }
        let upstream_total = sum(zones, |zone| zone.upstream_healthy);
        let local_total = sum(zones, |zone| zone.local_healthy);
        let upstream_share = |zone: &Zone| share(zone.upstream_healthy, upstream_total);
        let local_share = |zone: &Zone| share(zone.local_healthy, local_total);
        let (own_upstream, own_local) = (upstream_share(own), local_share(own));
        if own_upstream > 0 && own_upstream >= own_local {
            return Self::Direct { local };
        }
        // Nothing is left in the own zone: its part of the endpoints is the smaller one.
        let mut capacity = 0;
        let residual = zones.iter().map(|zone| {
            capacity += upstream_share(zone).saturating_sub(local_share(zone));
            capacity
        });
        Self::Residual {
            local,
            residual_capacity: residual.collect(),
            local_percent_to_route: (own_upstream * WHOLE).checked_div(own_local).unwrap_or(0),
        }
    }

    /// The zone for one request; `None`: any.
    #[must_use]
    pub fn choose(&self, settings: &ZoneAware, rng: &mut impl Rng) -> Option<u32> {
        if matches!(self, Self::Off(_)) || !enabled(settings, rng) {
            return None;
        }
        match self {
            Self::Off(_) => None,
            Self::Direct { local } => Some(*local),
            Self::Residual { local, local_percent_to_route, residual_capacity } => {
                if rng.below(WHOLE) < *local_percent_to_route {
                    return Some(*local);
                }
                let all = residual_capacity.last().copied().filter(|all| *all > 0)?;
                let place = rng.below(all);
                let zone = residual_capacity.partition_point(|capacity| *capacity <= place);
                u32::try_from(zone).ok()
            }
        }
    }
}

/// Whether zones matter for this request.
fn enabled(settings: &ZoneAware, rng: &mut impl Rng) -> bool {
    let percent = u64::from(settings.routing_enabled_percent);
    percent >= 100 || rng.below(100) < percent
}

fn off(zones: &[Zone], settings: &ZoneAware, panic_threshold: u32) -> Option<Reason> {
    let has_two = |endpoints: fn(&Zone) -> u32| {
        zones.iter().filter(|zone| endpoints(zone) > 0).nth(1).is_some()
    };
    if !has_two(|zone| zone.upstream) || !has_two(|zone| zone.local) {
        return Some(Reason::OneZone);
    }
    if sum(zones, |zone| zone.upstream_healthy) < u64::from(settings.min_cluster_size) {
        return Some(Reason::SmallCluster);
    }
    let healthy = sum(zones, |zone| zone.local_healthy);
    let needed = sum(zones, |zone| zone.local).saturating_mul(u64::from(panic_threshold));
    (healthy.saturating_mul(100) < needed).then_some(Reason::LocalPanic)
}

fn sum(zones: &[Zone], endpoints: impl Fn(&Zone) -> u32) -> u64 {
    zones.iter().map(|zone| u64::from(endpoints(zone))).fold(0, u64::saturating_add)
}

/// `part` of `total` in hundredths of a percent, rounded down.
fn share(part: u32, total: u64) -> u64 {
    (u64::from(part) * WHOLE).checked_div(total).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::rng::SplitMix64;

    fn settings(min_cluster_size: u32, routing_enabled_percent: u32) -> ZoneAware {
        ZoneAware {
            local_cluster: String::new(),
            local_zone: String::new(),
            routing_enabled_percent,
            min_cluster_size,
        }
    }

    /// Zones with so many healthy endpoints of the upstream and of the local cluster.
    fn zones(healthy: &[(u32, u32)]) -> Vec<Zone> {
        let zone = |(upstream, local): &(u32, u32)| Zone {
            upstream: *upstream,
            upstream_healthy: *upstream,
            local: *local,
            local_healthy: *local,
        };
        healthy.iter().map(zone).collect()
    }

    fn routing(healthy: &[(u32, u32)], local: u32) -> Routing {
        Routing::new(&zones(healthy), Some(local), &settings(0, 100), 50)
    }

    /// Chosen zones among 100,000 requests; the last number: any zone.
    fn counts(routing: &Routing, settings: &ZoneAware, zones: usize) -> Vec<u32> {
        let mut rng = SplitMix64::new(5);
        let mut counts = vec![0; zones + 1];
        for _ in 0..100_000 {
            let zone = routing.choose(settings, &mut rng).map_or(zones, |zone| zone as usize);
            counts[zone] += 1;
        }
        counts
    }

    #[test]
    fn envoys_example_of_residual_capacity_comes_out() {
        // Upstream 25, 50, 25 % and local 40, 40, 20 %, from the comment in Envoy's code.
        let routing = routing(&[(5, 8), (10, 8), (5, 4)], 0);
        let expected = Routing::Residual {
            local: 0,
            local_percent_to_route: 6250,
            residual_capacity: vec![0, 1000, 1500],
        };
        assert_eq!(routing, expected);
        let counts = counts(&routing, &settings(0, 100), 3);
        for (count, expected) in counts.iter().zip([62_500, 25_000, 12_500, 0]) {
            assert!(count.abs_diff(expected) < 700, "{counts:?}");
        }
    }

    #[test]
    fn a_zone_with_half_the_endpoints_for_its_part_of_the_proxies_keeps_half() {
        // Local 20 %, upstream 10 %: the other example there.
        let Routing::Residual { local_percent_to_route, .. } = routing(&[(1, 2), (9, 8)], 0) else {
            unreachable!("10 % is less than 20 %");
        };
        assert_eq!(local_percent_to_route, 5000);
    }

    #[test]
    fn a_zone_with_as_large_a_part_of_the_endpoints_keeps_everything() {
        assert_eq!(routing(&[(2, 2), (2, 2)], 1), Routing::Direct { local: 1 });
        assert_eq!(routing(&[(9, 8), (1, 2)], 0), Routing::Direct { local: 0 });
    }

    #[test]
    fn a_zone_without_upstream_endpoints_sends_everything_elsewhere() {
        let routing = routing(&[(3, 3), (0, 3), (3, 3)], 1);
        let counts = counts(&routing, &settings(0, 100), 3);
        assert_eq!((counts[1], counts[3]), (0, 0));
        assert!(counts[0].abs_diff(50_000) < 700, "{counts:?}");
    }

    #[test]
    fn what_is_left_over_goes_by_capacity_and_never_to_a_zone_without_any() {
        let routing = Routing::Residual {
            local: 0,
            local_percent_to_route: 0,
            residual_capacity: vec![0, 1, 1, 2],
        };
        let counts = counts(&routing, &settings(0, 100), 4);
        assert_eq!((counts[0], counts[2], counts[4]), (0, 0, 0), "{counts:?}");
        assert!(counts[1].abs_diff(50_000) < 700, "{counts:?}");
    }

    #[test]
    fn zones_matter_for_the_configured_part_of_requests() {
        let settings = settings(0, 30);
        let counts = counts(&routing(&[(2, 2), (2, 2)], 0), &settings, 2);
        assert!(counts[0].abs_diff(30_000) < 700, "{counts:?}");
        assert_eq!(counts[1], 0);
    }

    #[test]
    fn what_has_to_hold_for_zones_to_matter_is_checked() {
        let with = |zones: &[Zone], local, min_cluster_size| {
            Routing::new(zones, local, &settings(min_cluster_size, 100), 50)
        };
        let two = zones(&[(3, 3), (3, 3)]);
        assert_eq!(with(&two, Some(0), 6), Routing::Direct { local: 0 });
        assert_eq!(with(&two, Some(0), 7), Routing::Off(Reason::SmallCluster));
        assert_eq!(with(&two, None, 6), Routing::Off(Reason::NoLocalZone));
        assert_eq!(with(&two, Some(2), 6), Routing::Off(Reason::NoLocalZone));
        for (healthy, local, reason) in [
            (vec![(3, 3)], 0, Reason::OneZone),
            (vec![(3, 3), (0, 3)], 0, Reason::OneZone),
            (vec![(3, 3), (3, 0)], 0, Reason::OneZone),
            (vec![(3, 3), (3, 0), (3, 3)], 1, Reason::NoLocalZone),
        ] {
            assert_eq!(with(&zones(&healthy), Some(local), 1), Routing::Off(reason), "{healthy:?}");
        }
        let mut sick = two;
        sick[0].local_healthy = 0;
        assert!(!matches!(with(&sick, Some(0), 6), Routing::Off(_)), "exactly half are healthy");
        sick[1].local_healthy = 2;
        assert_eq!(with(&sick, Some(0), 6), Routing::Off(Reason::LocalPanic));
        assert_eq!(routing(&[], 0).choose(&settings(0, 100), &mut SplitMix64::new(1)), None);
    }
}
