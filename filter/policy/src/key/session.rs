//! Sticky sessions: a cookie that names an endpoint without saying which.
//!
//! The cookie's value is a token: SipHash-2-4 with 128 bits (Aumasson and Bernstein: "SipHash: a
//! fast short-input PRF", 2012) of the cluster's name and the endpoint's address, keyed by the
//! configured secret. Whoever does not know the secret can neither read an address from a token nor
//! make the token of an address; and a token is only ever compared with those of the present
//! members, so no value of the cookie leads anywhere else. Envoy's own `stateful_session` cookie
//! carries the address itself, in base64.
//!
//! A token is a name and no proof: all clients of an endpoint have the same one, and may pass it
//! on. It changes with the secret, the cluster's name and the endpoint's address and with nothing
//! else, so every proxy and worker with the same configuration honours it, after a restart too.
//! The secret should have the 128 bits of the key: a guess at it can be tested on one token.

use core::fmt;
use core::hash::Hasher as _;

use hashbrown::HashMap;
use siphasher::sip128::{Hasher128 as _, SipHasher24};

use super::{Head, cookie, hex_digit};

/// First character of a token in a cookie: what follows is read by the rules of this module.
const VERSION: u8 = b'1';

/// Digits of a token in a cookie, after the version.
const DIGITS: usize = 32;

/// The name of an endpoint in a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token([u8; 16]);

impl Token {
    /// The token that a cookie's value spells: the version and 32 lower-case hexadecimal digits,
    /// and nothing else.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let digits = value.strip_prefix(&[VERSION])?;
        let digits: &[u8; DIGITS] = digits.try_into().ok()?;
        let mut token = [0; 16];
        for (byte, pair) in token.iter_mut().zip(digits.as_chunks::<2>().0) {
            let [high, low] = pair;
            *byte = hex_value(*high)? << 4 | hex_value(*low)?;
        }
        Some(Self(token))
    }

    /// Appends the cookie's value to `out`, without quotes.
    pub fn render(self, out: &mut Vec<u8>) {
        out.push(VERSION);
        for byte in self.0 {
            out.extend([hex_digit(u64::from(byte >> 4)), hex_digit(u64::from(byte))]);
        }
    }
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit.wrapping_sub(b'0')),
        b'a'..=b'f' => Some(digit.wrapping_sub(b'a').wrapping_add(10)),
        _ => None,
    }
}

/// The tokens of a cluster's present members: 24 to 48 bytes for each.
#[derive(Clone)]
pub struct Tokens {
    /// Keyed, and past the cluster's name.
    maker: SipHasher24,
    places: HashMap<Token, u32>,
}

impl fmt::Debug for Tokens {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("members", &self.places.len()).finish_non_exhaustive()
    }
}

impl Tokens {
    /// Tokens of no endpoint yet, keyed by `secret` for the cluster called `cluster`.
    #[must_use]
    pub fn new(secret: &str, cluster: &str) -> Self {
        // SipHash spreads the secret over the key; the public key of this step hides nothing.
        let mut key = SipHasher24::new();
        key.write(secret.as_bytes());
        let mut maker = SipHasher24::new_with_key(&key.finish128().as_bytes());
        // With its length in front, no name can run into an address.
        maker.write(&u64::try_from(cluster.len()).unwrap_or(u64::MAX).to_le_bytes());
        maker.write(cluster.as_bytes());
        Self { maker, places: HashMap::new() }
    }

    /// Replaces the members; `addresses` are in the order of their places. Nothing is kept from
    /// before: to make a token costs no more than to look it up by its address.
    pub fn rebuild<'a>(&mut self, addresses: impl IntoIterator<Item = &'a str>) {
        self.places.clear();
        for (place, address) in (0_u32..).zip(addresses) {
            self.places.insert(self.token(address), place);
        }
    }

    /// The token of the endpoint at `address`.
    #[must_use]
    pub fn token(&self, address: &str) -> Token {
        let mut maker = self.maker;
        maker.write(address.as_bytes());
        Token(maker.finish128().as_bytes())
    }

    /// The place of the member that `token` names.
    #[must_use]
    pub fn place(&self, token: Token) -> Option<u32> {
        self.places.get(&token).copied()
    }

    /// The place of the member that the request is bound to by the first cookie called `name`
    /// whose value is a token. The cookie's other values are passed over: browsers send what other
    /// applications of the same site have set.
    #[must_use]
    pub fn bound_to(&self, name: &str, head: &impl Head) -> Option<u32> {
        self.place(cookie::first(name.as_bytes(), head, Token::parse)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Fixed;
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const MEMBERS: [&str; 3] = ["10.0.0.1:80", "10.0.0.2:80", "[::1]:80"];

    fn tokens(secret: &str, cluster: &str) -> Tokens {
        let mut tokens = Tokens::new(secret, cluster);
        tokens.rebuild(MEMBERS);
        tokens
    }

    fn text(token: Token) -> String {
        let mut out = Vec::new();
        token.render(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_rendered_token_leads_back_to_its_endpoint() {
        let tokens = tokens(SECRET, "backend");
        for (place, address) in (0..).zip(MEMBERS) {
            let value = text(tokens.token(address));
            assert_eq!(value.len(), 1 + DIGITS);
            assert_eq!(tokens.place(Token::parse(value.as_bytes()).unwrap()), Some(place));
        }
    }

    #[test]
    fn a_token_is_the_same_on_every_machine() {
        // by an implementation of the paper in Python, checked against its published vector
        let tokens = tokens(SECRET, "backend");
        assert_eq!(text(tokens.token("10.0.0.1:80")), "121d3aa3dd0191d0bc3c798b826d6b7fb");
    }

    #[test]
    fn tokens_of_another_secret_cluster_or_address_name_nobody() {
        let ours = tokens(SECRET, "backend");
        for address in MEMBERS {
            for (secret, cluster) in [
                ("0123456789abcdef0123456789abcdeg", "backend"),
                ("", "backend"),
                (SECRET, "backend2"),
                (SECRET, "backen"),
                (SECRET, ""),
            ] {
                let theirs = tokens(secret, cluster).token(address);
                assert_eq!(ours.place(theirs), None, "{secret} {cluster} {address}");
            }
        }
        assert_eq!(ours.place(ours.token("10.0.0.3:80")), None, "not a member");
        let shifted = Tokens::new(SECRET, "backend1").token("0.0.0.1:80");
        assert_ne!(shifted, ours.token("10.0.0.1:80"));
    }

    #[test]
    fn an_endpoint_that_left_is_named_by_no_token_and_who_stays_keeps_its_own() {
        let mut tokens = tokens(SECRET, "backend");
        let (first, last) = (tokens.token(MEMBERS[0]), tokens.token(MEMBERS[2]));
        tokens.rebuild([MEMBERS[2], MEMBERS[1]]);
        assert_eq!((tokens.place(first), tokens.place(last)), (None, Some(0)));
    }

    #[test]
    fn only_the_exact_shape_is_a_token() {
        let tokens = tokens(SECRET, "backend");
        let value = text(tokens.token(MEMBERS[0]));
        for end in 0..value.len() {
            assert_eq!(Token::parse(&value.as_bytes()[..end]), None);
        }
        for bad in [
            format!("{value}0"),
            format!(" {value}"),
            value.replacen('1', "2", 1),
            format!("1{}", "A".repeat(DIGITS)),
            format!("1{}", "g".repeat(DIGITS)),
            format!("1+{}", "0".repeat(DIGITS - 1)),
            format!("1{}", "é".repeat(DIGITS / 2)),
            "10.0.0.1:80".to_owned(),
        ] {
            assert_eq!(Token::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_token_with_any_bit_changed_names_nobody() {
        let tokens = tokens(SECRET, "backend");
        let Token(bytes) = tokens.token(MEMBERS[0]);
        for bit in 0..128 {
            let mut forged = bytes;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(tokens.place(Token(forged)), None);
        }
    }

    #[test]
    fn the_first_cookie_that_is_a_token_counts() {
        let tokens = tokens(SECRET, "backend");
        assert_eq!(format!("{tokens:?}"), "Tokens { members: 3, .. }", "no key in logs");
        let [first, second, _] = MEMBERS.map(|address| text(tokens.token(address)));
        let of = |cookies: &[&str]| {
            let head = cookies.iter().map(|value| ("cookie", *value)).collect();
            tokens.bound_to("sid", &Fixed(head))
        };
        assert_eq!(of(&[&format!("a=1; sid=\"{first}\"")]), Some(0));
        assert_eq!(of(&[&format!("sid=junk; sid={second}"), &format!("sid={first}")]), Some(1));
        assert_eq!(of(&["sid=", &format!("sid={second}")]), Some(1));
        let gone = text(tokens.token("10.9.9.9:80"));
        assert_eq!(of(&[&format!("sid={gone}; sid={first}")]), None, "a token, of nobody");
        assert_eq!(of(&[&format!("SID={first}")]), None);
        assert_eq!(of(&[]), None);
    }
}
