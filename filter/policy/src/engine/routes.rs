//! Which cluster a request belongs to, without asking Envoy.
//!
//! Asking (`xds.cluster_name`) costs as much as all the rest of the plugin, so a cluster may say
//! in the configuration which requests are its own ([`Routes`]); where nothing is said, an
//! authority that has led to one cluster again and again is trusted to go on so, and is asked
//! about only now and then ([`Learned`]). A wrong answer here cannot send a request anywhere new:
//! Envoy takes only endpoints of the cluster that its route chose, and without one falls back to
//! its own policy.

use hashbrown::HashMap;

use crate::config::Match;

/// Authorities longer than this are looked up as they are, without folding their case, and are not
/// remembered.
const AUTHORITY_MAX: usize = 256;

/// The matches of all clusters.
#[derive(Clone, Debug, Default)]
pub(super) struct Routes {
    by_authority: HashMap<Vec<u8>, Vec<Rule>>,
    any_authority: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    prefix: Vec<u8>,
    cluster: u32,
}

impl Routes {
    /// Adds the rules of `cluster`; where two match, the longer path prefix wins, then the cluster
    /// that was added first.
    pub(super) fn add(&mut self, cluster: u32, matches: &Match) {
        if matches.is_empty() {
            return;
        }
        let any = [String::new()];
        let prefixes: &[String] =
            if matches.path_prefixes.is_empty() { &any } else { &matches.path_prefixes };
        let rules = prefixes.iter().map(|p| Rule { prefix: p.clone().into_bytes(), cluster });
        if matches.authorities.is_empty() {
            self.any_authority.extend(rules);
            longest_first(&mut self.any_authority);
            return;
        }
        for authority in &matches.authorities {
            let entry = self.by_authority.entry(authority.clone().into_bytes()).or_default();
            entry.extend(rules.clone());
            longest_first(entry);
        }
    }

    /// The cluster of a request, if a rule says so.
    pub(super) fn find(&self, authority: &[u8], path: &[u8]) -> Option<u32> {
        let first = |rules: &[Rule]| {
            rules.iter().find(|rule| path.starts_with(&rule.prefix)).map(|rule| rule.cluster)
        };
        self.rules_of(authority).and_then(first).or_else(|| first(&self.any_authority))
    }

    fn rules_of(&self, authority: &[u8]) -> Option<&[Rule]> {
        if self.by_authority.is_empty() {
            return None;
        }
        if let Some(rules) = self.by_authority.get(authority) {
            return Some(rules);
        }
        if authority.len() > AUTHORITY_MAX || !authority.iter().any(u8::is_ascii_uppercase) {
            return None;
        }
        self.by_authority.get(&authority.to_ascii_lowercase()).map(Vec::as_slice)
    }
}

fn longest_first(rules: &mut [Rule]) {
    rules.sort_by_key(|rule| core::cmp::Reverse(rule.prefix.len()));
}

/// Authorities remembered; when there are more, all are forgotten and learnt again.
const LEARNED_MAX: usize = 4096;

/// Answers in a row that make an authority trusted.
const TRUSTED_AFTER: u32 = 16;

/// A trusted authority is asked about once in so many requests.
const ASKED_EVERY: u32 = 256;

/// What answers have taught of one authority.
#[derive(Clone, Copy, Debug)]
struct Lesson {
    cluster: u32,
    /// Answers in a row that named this cluster; an authority that leads to several stays at 0.
    agreed: u32,
    mixed: bool,
    /// Requests until the next question.
    unasked: u32,
}

/// Which cluster an authority leads to, as far as the route's answers so far tell.
#[derive(Clone, Debug, Default)]
pub(super) struct Learned {
    lessons: HashMap<Vec<u8>, Lesson>,
}

impl Learned {
    /// The cluster of `authority`, if it is trusted and it is not time to ask again.
    pub(super) fn recall(&mut self, authority: &[u8]) -> Option<u32> {
        let lesson = self.lessons.get_mut(authority)?;
        if lesson.mixed || lesson.agreed < TRUSTED_AFTER || lesson.unasked == 0 {
            return None;
        }
        lesson.unasked -= 1;
        Some(lesson.cluster)
    }

    /// The route of a request for `authority` leads to `cluster`.
    pub(super) fn learn(&mut self, authority: &[u8], cluster: u32) {
        if self.lessons.len() >= LEARNED_MAX {
            self.lessons.clear();
        }
        if authority.len() > AUTHORITY_MAX {
            return;
        }
        let new = Lesson { cluster, agreed: 0, mixed: false, unasked: 0 };
        let lesson = self.lessons.entry_ref(authority).or_insert(new);
        lesson.mixed |= lesson.cluster != cluster;
        lesson.agreed = lesson.agreed.saturating_add(1);
        lesson.unasked = ASKED_EVERY;
    }

    /// Forgets everything: an attempt went to a cluster that nobody expected.
    pub(super) fn clear(&mut self) {
        self.lessons.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn matches(authorities: &[&str], prefixes: &[&str]) -> Match {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        Match { authorities: owned(authorities), path_prefixes: owned(prefixes) }
    }

    #[test]
    fn the_authority_comes_before_the_path_and_the_longer_prefix_before_the_shorter() {
        let mut routes = Routes::default();
        routes.add(0, &matches(&["a.example"], &[]));
        routes.add(1, &matches(&["a.example"], &["/api", "/api/v2"]));
        routes.add(2, &matches(&[], &["/"]));
        assert_eq!(routes.find(b"a.example", b"/"), Some(0));
        assert_eq!(routes.find(b"A.Example", b"/api/v2/x"), Some(1));
        assert_eq!(routes.find(b"b.example", b"/api"), Some(2));
        assert_eq!(routes.find(b"\xff", b"\xff"), None);
    }

    #[test]
    fn a_cluster_without_a_match_is_never_found() {
        let mut routes = Routes::default();
        routes.add(0, &Match::default());
        assert_eq!(routes.find(b"a", b"/"), None);
    }

    #[test]
    fn an_authority_is_trusted_after_a_while_and_asked_about_now_and_then() {
        let mut learned = Learned::default();
        for _ in 0..TRUSTED_AFTER {
            assert_eq!(learned.recall(b"a"), None);
            learned.learn(b"a", 7);
        }
        for _ in 0..ASKED_EVERY {
            assert_eq!(learned.recall(b"a"), Some(7));
        }
        assert_eq!(learned.recall(b"a"), None, "time to ask");
        learned.learn(b"a", 7);
        assert_eq!(learned.recall(b"a"), Some(7));
        assert_eq!(learned.recall(b"b"), None);
    }

    #[test]
    fn an_authority_that_leads_to_several_clusters_is_always_asked_about() {
        let mut learned = Learned::default();
        for i in 0..1000 {
            assert_eq!(learned.recall(b"a"), None);
            learned.learn(b"a", i % 2);
        }
    }

    #[test]
    fn any_number_of_authorities_takes_limited_memory() {
        let mut learned = Learned::default();
        for i in 0..3 * LEARNED_MAX {
            learned.learn(&i.to_le_bytes(), 0);
        }
        assert!(learned.lessons.len() <= LEARNED_MAX);
    }
}
