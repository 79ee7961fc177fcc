//! Base64 and as much of protobuf's wire format as one load report needs.
//!
//! Neither is worth a package here: the input is one header of a few hundred bytes, and four
//! fields of it are wanted. Nothing is allocated, and every loop ends with the bytes.

use super::report::{REPORT_BYTES_MAX, Report};

/// Bytes that the longest header value can hold.
const DECODED_BYTES_MAX: usize = REPORT_BYTES_MAX / 4 * 3;

/// Bytes of the longest varint.
const VARINT_BYTES_MAX: u32 = 10;

/// The report in `base64`; `None` when that is empty, too long or damaged.
pub(super) fn decode(base64: &[u8]) -> Option<Report> {
    let mut room = [0_u8; DECODED_BYTES_MAX];
    let bytes = decode_base64(base64, &mut room)?;
    if bytes.is_empty() { None } else { read_report(bytes) }
}

/// Decodes base64 (RFC 4648 section 4) into `room`; padding may be left out, as grpc-go does.
fn decode_base64<'a>(text: &[u8], room: &'a mut [u8]) -> Option<&'a [u8]> {
    let unpadded = match text {
        [rest @ .., b'=', b'='] | [rest @ .., b'='] if text.len().is_multiple_of(4) => rest,
        _ => text,
    };
    let mut length = 0;
    for group in unpadded.chunks(4) {
        let mut bits = 0_u32;
        for digit in group {
            bits = bits << 6 | digit_of(*digit)?;
        }
        let bytes = match group.len() {
            4 => 3,
            3 => 2,
            2 => 1,
            _ => return None,
        };
        bits <<= 6 * (4 - group.len());
        let [_, decoded @ ..] = bits.to_be_bytes();
        room.get_mut(length..length + bytes)?.copy_from_slice(decoded.get(..bytes)?);
        length += bytes;
    }
    room.get(..length)
}

fn digit_of(byte: u8) -> Option<u32> {
    let digit = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(u32::from(digit))
}

/// Reads an `xds.data.orca.v3.OrcaLoadReport`. Of a field that comes twice the last counts; those
/// that are not wanted are skipped; `None` when bytes are missing, or a wanted field or a tag
/// has another type than it should.
fn read_report(mut bytes: &[u8]) -> Option<Report> {
    let mut report = Report::default();
    while !bytes.is_empty() {
        let tag = take_varint(&mut bytes)?;
        let (number, wire_type) = (tag >> 3, tag & 7);
        let field = match number {
            0 => return None,
            1 => &mut report.cpu_utilization,
            6 => &mut report.rps_fractional,
            7 => &mut report.eps,
            9 => &mut report.application_utilization,
            _ => {
                skip(&mut bytes, wire_type)?;
                continue;
            }
        };
        if wire_type != 1 {
            return None;
        }
        let (value, rest) = bytes.split_first_chunk()?;
        *field = f64::from_le_bytes(*value);
        bytes = rest;
    }
    Some(report)
}

fn skip(bytes: &mut &[u8], wire_type: u64) -> Option<()> {
    let length = match wire_type {
        0 => return take_varint(bytes).map(drop),
        1 => 8,
        2 => usize::try_from(take_varint(bytes)?).ok()?,
        5 => 4,
        _ => return None,
    };
    *bytes = bytes.get(length..)?;
    Some(())
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for place in 0..VARINT_BYTES_MAX {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn base64(text: &str) -> Option<Vec<u8>> {
        let mut room = [0; DECODED_BYTES_MAX];
        decode_base64(text.as_bytes(), &mut room).map(<[u8]>::to_vec)
    }

    fn double(number: u8, value: f64) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 1];
        bytes.extend_from_slice(&value.to_le_bytes());
        bytes
    }

    #[test]
    fn base64_is_that_of_rfc_4648_padded_or_not() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmE=", "fooba"),
            ("Zm9vYmFy", "foobar"),
        ] {
            assert_eq!(base64(text), Some(bytes.into()), "{text}");
            assert_eq!(base64(text.trim_end_matches('=')), Some(bytes.into()), "{text}");
        }
        assert_eq!(base64("+/+/"), Some(vec![0xfb, 0xff, 0xbf]));
    }

    #[test]
    fn damaged_base64_is_refused() {
        for text in ["Z", "Zm9vY", "Zg=", "Zg===", "=", "====", "Zm=v", "Zm 8", "Zm9v,Zm9v", "Zg_-"]
        {
            assert_eq!(base64(text), None, "{text}");
        }
        assert_eq!(base64(&"A".repeat(REPORT_BYTES_MAX + 4)), None);
        assert!(base64(&"A".repeat(REPORT_BYTES_MAX)).is_some());
    }

    #[test]
    fn fields_that_are_not_wanted_are_skipped_whatever_their_type() {
        let mut bytes = vec![3 << 3, 0x80, 0x01];
        bytes.extend(double(2, 0.9));
        bytes.extend([5 << 3 | 2, 2, 0xff, 0xff]);
        bytes.extend([15 << 3 | 5, 1, 2, 3, 4]);
        bytes.extend([0x82, 0x40, 0]);
        bytes.extend(double(7, 1.0));
        bytes.extend(double(7, 2.0));
        let expected = Report { eps: 2.0, ..Report::default() };
        assert_eq!(read_report(&bytes), Some(expected));
    }

    #[test]
    fn a_damaged_message_is_refused_wherever_it_is_cut() {
        let mut whole = double(1, 0.5);
        whole.extend([5 << 3 | 2, 3, 1, 2, 3]);
        whole.extend(double(6, 9.0));
        for end in 0..whole.len() {
            let is_between_fields = [0, 9, 14].contains(&end);
            assert_eq!(read_report(&whole[..end]).is_some(), is_between_fields, "{end}");
        }
        let wrong: [&[u8]; 6] = [
            &[1 << 3, 0, 0, 0, 0, 0, 0, 0, 0],
            &[1 << 3 | 3],
            &[4 << 3 | 4],
            &[1, 0, 0, 0, 0, 0, 0, 0, 0],
            &[5 << 3 | 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            &[0x80; 11],
        ];
        for bytes in wrong {
            assert_eq!(read_report(bytes), None, "{bytes:?}");
        }
    }
}
