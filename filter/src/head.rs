//! The request's head as one block of bytes, read in place.
//!
//! The ABI serialises a header map as a count, the sizes of each name and value, and then names
//! and values with a NUL after each (all numbers little endian). One fetch of the whole map costs
//! as much as one header, so the map is fetched once and nothing in it is copied.

use outrigger_policy::engine::Head;

/// Headers that are looked at; Envoy's own limit is 100 unless it is raised.
pub const HEADERS_MAX: usize = 16_384;

/// What a client must not set.
pub const PRIVATE_PREFIX: &[u8] = b"x-outrigger-";

/// What steers Envoy's router; there on requests that Envoy takes for internal ones.
const ROUTER_PREFIX: &[u8] = b"x-envoy-";

/// A view of a serialised header map. Damaged bytes end the view, they do not trap.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadView<'a> {
    bytes: &'a [u8],
    method: &'a [u8],
    authority: &'a [u8],
    path: &'a [u8],
    request_id: &'a [u8],
    private: bool,
    router: bool,
}

impl<'a> HeadView<'a> {
    /// Reads the well-known headers in one pass.
    pub fn new(bytes: &'a [u8]) -> Self {
        let mut view = Self { bytes, ..Self::default() };
        for (name, value) in pairs(bytes) {
            match name {
                b":method" => view.method = value,
                b":authority" => view.authority = value,
                b":path" => view.path = value,
                b"x-request-id" => view.request_id = value,
                [b'x', b'-', b'o' | b'e', ..] => {
                    view.private |= name.starts_with(PRIVATE_PREFIX);
                    view.router |= name.starts_with(ROUTER_PREFIX);
                }
                _ => {}
            }
        }
        view
    }

    /// Whether there may be headers already that steer the router.
    pub const fn has_router_headers(&self) -> bool {
        self.router
    }

    /// Every value of the header called `name`, joined by commas.
    pub fn all(&self, name: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        for (_, value) in pairs(self.bytes).filter(|(key, _)| *key == name) {
            if !all.is_empty() {
                all.push(b',');
            }
            all.extend_from_slice(value);
        }
        all
    }

    /// The names of headers that a client must not set, each as often as it occurs.
    pub fn private(&self) -> impl Iterator<Item = &'a [u8]> {
        let bytes = if self.private { self.bytes } else { &[] };
        pairs(bytes).map(|(name, _)| name).filter(|name| name.starts_with(PRIVATE_PREFIX))
    }
}

impl Head for HeadView<'_> {
    fn method(&self) -> &[u8] {
        self.method
    }

    fn authority(&self) -> &[u8] {
        self.authority
    }

    fn path(&self) -> &[u8] {
        self.path
    }

    fn request_id(&self) -> &[u8] {
        self.request_id
    }

    fn values<'s>(&'s self, name: &[u8], each: &mut dyn FnMut(&'s [u8])) {
        for (key, value) in pairs(self.bytes) {
            if key == name {
                each(value);
            }
        }
    }
}

/// The names and values of a serialised map.
pub fn pairs(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let count = bytes.first_chunk::<4>().map_or(0, |b| u32::from_le_bytes(*b));
    let count = usize::try_from(count).unwrap_or(0).min(HEADERS_MAX);
    let (sizes, mut rest) = bytes
        .get(4..)
        .and_then(|after| after.split_at_checked(count.saturating_mul(8)))
        .unwrap_or_default();
    sizes.chunks_exact(8).map_while(move |pair| {
        let (name_size, value_size) = pair.split_at_checked(4)?;
        let (name, after) = take(rest, name_size)?;
        let (value, after) = take(after, value_size)?;
        rest = after;
        Some((name, value))
    })
}

/// Splits off a string of the size that `size` spells, and the NUL behind it.
fn take<'a>(bytes: &'a [u8], size: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let size = u32::from_le_bytes(*size.first_chunk::<4>()?);
    let (string, after) = bytes.split_at_checked(usize::try_from(size).ok()?)?;
    Some((string, after.get(1..)?))
}

/// A header map in the ABI's form.
pub fn serialize(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
    let size = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
    let count = u32::try_from(pairs.len()).unwrap_or(u32::MAX);
    let mut out = count.to_le_bytes().to_vec();
    for (name, value) in pairs {
        out.extend_from_slice(&size(name));
        out.extend_from_slice(&size(value));
    }
    for (name, value) in pairs {
        out.extend_from_slice(name);
        out.push(0);
        out.extend_from_slice(value);
        out.push(0);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_serialised_is_read_back_whatever_the_bytes() {
        let all: Vec<u8> = (0..=255).collect();
        let map = [(b":path".as_slice(), b"/\xff\0x".as_slice()), (&all, &all), (b"", b"")];
        let bytes = serialize(&map);
        assert_eq!(pairs(&bytes).collect::<Vec<_>>(), map);
        assert_eq!(HeadView::new(&bytes).path(), b"/\xff\0x");
    }

    #[test]
    fn truncated_and_forged_maps_end_early_and_do_not_trap() {
        let bytes = serialize(&[(b":path", b"/a"), (b"x-outrigger-endpoints", b"1")]);
        for end in 0..bytes.len() {
            HeadView::new(&bytes[..end]);
        }
        for forged in [[0xff; 4].as_slice(), &[1, 0, 0, 0], &[1, 0, 0, 0, 255, 255, 255, 255]] {
            assert_eq!(pairs(forged).count(), 0);
        }
        let mut huge = serialize(&[(b"a", b"b")]);
        huge[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(pairs(&huge).count(), 0);
    }

    #[test]
    fn private_headers_are_named_as_often_as_they_occur() {
        let bytes =
            serialize(&[(b"x-outrigger-a", b""), (b"x-other", b""), (b"x-outrigger-a", b"")]);
        let view = HeadView::new(&bytes);
        assert_eq!(view.private().count(), 2);
        assert_eq!(HeadView::new(&serialize(&[(b"x", b"")])).private().count(), 0);
    }

    #[test]
    fn every_value_of_a_header_is_offered() {
        let bytes = serialize(&[(b"k", b"1"), (b"j", b"2"), (b"k", b"3")]);
        let view = HeadView::new(&bytes);
        let mut seen: Vec<Vec<u8>> = Vec::new();
        view.values(b"k", &mut |value| seen.push(value.to_vec()));
        assert_eq!(seen, [b"1", b"3"]);
    }
}
