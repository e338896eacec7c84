//! A block in a row of blocks, as PUSH_BLOCK carries it and as packs hold it, so that what is on the disk goes out as it is: header
//! length 2 ‖ header ‖ body length 4 ‖ body. Lengths are big-endian; there is nothing between one record and the next.

use std::ops::Range;

use bytes::{Buf, Bytes};

use super::{MAX_BODY_BYTES, MAX_HEADER_BYTES};

/// Bytes of the two lengths.
pub(super) const LENGTHS: usize = 2 + 4;

/// Adds the head of a record, which is what comes before so many bytes of `body`.
pub(super) fn put_head(out: &mut Vec<u8>, header: &[u8], body: usize) {
    let (length, body) = (u16::try_from(header.len()), u32::try_from(body));
    out.extend_from_slice(&length.expect("headers are short").to_be_bytes());
    out.extend_from_slice(header);
    out.extend_from_slice(&body.expect("bodies are at most 4 MiB").to_be_bytes());
}

/// Where the header is in the head of a record.
pub(super) fn header_in(head: Range<usize>) -> Range<usize> {
    head.start + 2..head.end - 4
}

/// Takes header and body of the first record; they share the memory of `bytes`. `None` for one that is not all there, or longer than a
/// block may be.
pub(super) fn take(bytes: &mut Bytes) -> Option<(Bytes, Bytes)> {
    let header = usize::from(bytes.try_get_u16().ok()?);
    if header > MAX_HEADER_BYTES || header > bytes.len() {
        return None;
    }
    let header = bytes.split_to(header);
    let body = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
    if body > MAX_BODY_BYTES || body > bytes.len() {
        return None;
    }
    Some((header, bytes.split_to(body)))
}

/// For tests: headers and bodies of all records.
#[cfg(test)]
pub(super) fn apart(mut bytes: Bytes) -> Vec<(Bytes, Bytes)> {
    std::iter::from_fn(|| bytes.has_remaining().then(|| take(&mut bytes).expect("a record"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_taken_and_nothing_else_is() {
        let blocks = [(&b"header"[..], &b"body"[..]), (b"another", b""), (b"", b"no header")];
        let mut bytes = Vec::new();
        for (header, body) in blocks {
            let start = bytes.len();
            put_head(&mut bytes, header, body.len());
            assert_eq!(&bytes[header_in(start..bytes.len())], header);
            assert_eq!(bytes.len() - start, LENGTHS + header.len());
            bytes.extend_from_slice(body);
        }
        assert_eq!(bytes[..12], *b"\0\x06header\0\0\0\x04");
        let whole = Bytes::from(bytes);
        assert_eq!(apart(whole.clone()), blocks.map(|(h, b)| (Bytes::from(h), Bytes::from(b))));
        let first = LENGTHS + 6 + 4;
        for end in 0..first {
            assert_eq!(take(&mut whole.slice(..end)), None, "cut at {end}");
        }
        assert!(take(&mut whole.slice(..first)).is_some());
    }

    #[test]
    fn no_length_is_believed() {
        let record = |header: u16, body: u32| {
            let (length, rest) = (header.to_be_bytes(), vec![0; usize::from(header)]);
            Bytes::from([&length[..], &rest, &body.to_be_bytes(), &[0; 8]].concat())
        };
        let longest = u16::try_from(MAX_HEADER_BYTES).unwrap();
        assert!(take(&mut record(longest, 8)).is_some());
        assert_eq!(take(&mut record(longest + 1, 8)), None);
        for body in [9, u32::try_from(MAX_BODY_BYTES).unwrap() + 1, u32::MAX] {
            assert_eq!(take(&mut record(longest, body)), None, "{body}");
        }
        let mut long = vec![0; MAX_BODY_BYTES + 1 + LENGTHS];
        long[2..LENGTHS].copy_from_slice(&u32::try_from(MAX_BODY_BYTES + 1).unwrap().to_be_bytes());
        assert_eq!(take(&mut Bytes::from(long)), None, "all of it is there");
    }
}
