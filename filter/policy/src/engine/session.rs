//! Cookies for the client: of hash policies, and of sessions.
//!
//! The plugin does not see responses (every response would pay for it), so a cookie is laid down
//! with the request, and Envoy's route adds it to the answer: see `envoy/README.md`. A session's
//! cookie names the first endpoint of the list; when an attempt fails and the next one begins, the
//! cookie is laid down again for the endpoint that follows, so that it names the one that answers.

use super::cluster::Cluster;
use super::{Cookie, Engine, Environment, Head};
use crate::key;
use crate::outcome::ledger::StreamId;

impl Cluster {
    /// The endpoint that the request's session is bound to, if it may go on there.
    pub(super) fn bound_to(&self, head: &impl Head) -> Option<u32> {
        let session = self.settings.session.as_ref()?;
        let place = self.tokens.as_ref()?.bound_to(&session.cookie_name, head)?;
        self.keeps_sessions(place).then_some(place)
    }

    fn session_cookie(&self, place: u32) -> Option<Vec<u8>> {
        let session = self.settings.session.as_ref()?;
        let mut token = Vec::new();
        self.tokens.as_ref()?.token(self.addresses.get(place as usize)?).render(&mut token);
        let mut header = Vec::new();
        let (name, path) = (&session.cookie_name, &session.cookie_path);
        key::set_cookie(&mut header, name, &token, path, session.ttl);
        Some(header)
    }
}

impl Engine {
    /// Lays down the cookies of the request that was just planned, first for `first`.
    pub(super) fn set_cookies(
        &mut self,
        index: u32,
        first: u32,
        environment: &mut impl Environment,
    ) {
        let Some(cluster) = self.clusters.get(index as usize) else { return };
        if let Some(generated) = self.generated.take() {
            let stream = environment.stream();
            // there is one place for it in the answer
            let mut done = false;
            cluster.key.set_cookies(generated, |header| {
                if !core::mem::replace(&mut done, true) {
                    environment.set_cookie(stream, Cookie::Hash, header);
                }
            });
        }
        if self.bound != Some(first)
            && let Some(header) = cluster.session_cookie(first)
        {
            let stream = environment.stream();
            environment.set_cookie(stream, Cookie::Session, &header);
        }
    }

    /// An attempt of stream `id` failed and the next one began: the session moves with it.
    pub(super) fn move_session(&mut self, id: StreamId, environment: &mut impl Environment) {
        let Some(flight) = self.flights.get_mut(id) else { return };
        let Some(leg) = flight.leg() else { return };
        let Some(cluster) = self.clusters.get(flight.cluster as usize) else { return };
        if cluster.generation == flight.generation
            && let Some(header) = cluster.session_cookie(leg.place)
        {
            environment.set_cookie(flight.stream, Cookie::Session, &header);
        }
    }
}
