//! Which requests are in flight, and where.
//!
//! Policies that follow load count requests in flight for the whole process, so each request is
//! added to its endpoint's counter when it is planned, moves on with each retry, and is taken off
//! when its stream ends. What was added is kept here by stream, so that exactly that is taken off,
//! whatever happened to the membership or the configuration meanwhile: every path that forgets a
//! stream hands its flight back.
//!
//! A worker that dies takes its flights with it and leaves its counters too high; the engine puts
//! that right with Envoy's own `rq_active`, which every membership poll brings.

use hashbrown::HashMap;

use super::ledger::StreamId;
use crate::attempt::LISTED_MAX;
use crate::state::slots::SLOTS_MAX;
use crate::time::Instant;

/// Flights of one worker at once: as many as streams whose end is waited for.
pub const FLIGHTS_MAX: usize = 65_536;

/// A slot that is none: the endpoint has no counter.
pub const NO_SLOT: u32 = u32::MAX;

/// One endpoint on a stream's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// The endpoint's place in the cluster's table, in the generation of the flight.
    pub place: u32,
    /// Its counter.
    pub slot: u32,
}

/// A request in flight.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    /// The cluster's place in the engine.
    pub cluster: u32,
    /// The generation of its table.
    pub generation: u32,
    /// The counter of the cluster as a whole.
    pub total: u32,
    /// What the host calls the stream.
    pub stream: u32,
    /// When the present attempt began.
    pub began: Instant,
    /// Whether the client gave up before the present attempt was answered.
    pub given_up: bool,
    legs: [Leg; LISTED_MAX as usize],
    listed: u8,
    at: u8,
}

impl Flight {
    /// A flight of no cluster yet to the first of `legs`, of which [`LISTED_MAX`] count.
    pub fn new(legs: impl Iterator<Item = Leg>, began: Instant) -> Self {
        let nowhere = Leg { place: u32::MAX, slot: NO_SLOT };
        let mut all = [nowhere; LISTED_MAX as usize];
        let mut listed = 0;
        for (to, leg) in all.iter_mut().zip(legs) {
            *to = leg;
            listed += 1;
        }
        Self {
            cluster: u32::MAX,
            generation: 0,
            total: NO_SLOT,
            stream: 0,
            began,
            given_up: false,
            legs: all,
            listed,
            at: 0,
        }
    }

    /// Where the present attempt is; nowhere once the list is used up.
    #[must_use]
    pub fn leg(&self) -> Option<Leg> {
        self.legs.get(..usize::from(self.listed))?.get(usize::from(self.at)).copied()
    }

    /// The present attempt failed and the next one begins.
    pub const fn go_on(&mut self, now: Instant) {
        self.at = self.at.saturating_add(1);
        self.began = now;
    }

    /// The present attempt failed and no other follows.
    pub const fn stop(&mut self) {
        self.at = self.listed;
    }
}

/// The flights of one worker, and what they add up to.
#[derive(Debug, Default)]
pub struct Flights {
    open: HashMap<StreamId, Flight>,
    /// This worker's part of each counter: the floor where Envoy throws the gauges away.
    own: Vec<u32>,
}

impl Flights {
    /// Begins a flight. Returns one that has to be taken off for it: of the same name, or the new
    /// one itself when there are too many.
    pub fn begin(&mut self, id: StreamId, flight: Flight) -> Option<Flight> {
        if self.open.len() >= FLIGHTS_MAX && !self.open.contains_key(&id) {
            return Some(flight);
        }
        self.open.insert(id, flight)
    }

    /// The flight of stream `id`.
    pub fn get_mut(&mut self, id: StreamId) -> Option<&mut Flight> {
        if self.open.is_empty() { None } else { self.open.get_mut(&id) }
    }

    /// Ends the flight of stream `id`.
    pub fn end(&mut self, id: StreamId) -> Option<Flight> {
        if self.open.is_empty() { None } else { self.open.remove(&id) }
    }

    /// The engine that planned them is gone; only their counters still mean something.
    pub fn forget_places(&mut self) {
        for flight in self.open.values_mut() {
            flight.cluster = u32::MAX;
            flight.legs.iter_mut().for_each(|leg| leg.place = u32::MAX);
        }
    }

    /// Ends any one flight.
    pub fn end_any(&mut self) -> Option<Flight> {
        let id = *self.open.keys().next()?;
        self.open.remove(&id)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Notes that this worker added (or took) one at `slot`.
    pub fn note(&mut self, slot: u32, added: bool) {
        let at = slot as usize;
        if at >= SLOTS_MAX {
            return;
        }
        if self.own.len() <= at {
            self.own.resize(at.saturating_add(1), 0);
        }
        if let Some(own) = self.own.get_mut(at) {
            *own = if added { own.saturating_add(1) } else { own.saturating_sub(1) };
        }
    }

    /// This worker's part of the counter at `slot`.
    #[must_use]
    pub fn own(&self, slot: u32) -> u32 {
        self.own.get(slot as usize).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn flight(slots: &[u32]) -> Flight {
        let legs = slots.iter().map(|slot| Leg { place: *slot, slot: *slot });
        Flight::new(legs, Instant::ZERO)
    }

    #[test]
    fn a_flight_follows_its_list_and_is_nowhere_after_its_end() {
        let mut flight = flight(&[4, 5]);
        assert_eq!(flight.leg().map(|leg| leg.slot), Some(4));
        flight.go_on(Instant::from_millis(3));
        assert_eq!(flight.leg().map(|leg| leg.slot), Some(5));
        assert_eq!(flight.began, Instant::from_millis(3));
        flight.go_on(Instant::from_millis(4));
        assert_eq!(flight.leg(), None);
    }

    #[test]
    fn an_attempt_that_nothing_follows_leaves_the_flight_nowhere() {
        let mut flight = flight(&[4, 5]);
        flight.stop();
        assert_eq!(flight.leg(), None);
    }

    #[test]
    fn whoever_is_displaced_or_refused_is_handed_back() {
        let mut flights = Flights::default();
        assert!(flights.begin(1, flight(&[1])).is_none());
        let displaced = flights.begin(1, flight(&[2])).unwrap();
        assert_eq!(displaced.leg().map(|leg| leg.slot), Some(1));
        for id in 2..=FLIGHTS_MAX as u64 {
            assert!(flights.begin(id, flight(&[3])).is_none());
        }
        assert!(flights.begin(u64::MAX, flight(&[4])).is_some(), "one too many");
        assert_eq!(flights.len(), FLIGHTS_MAX);
        assert!(flights.end(1).is_some());
        assert!(flights.end(1).is_none());
    }

    #[test]
    fn a_workers_own_part_never_falls_below_zero() {
        let mut flights = Flights::default();
        flights.note(3, false);
        flights.note(3, true);
        assert_eq!((flights.own(3), flights.own(9)), (1, 0));
    }
}
