use proptest::prelude::*;
use relaykit_pipeline_traits::{Json, Raw};

use super::*;

fn codec() -> Arc<dyn Codec<Vec<u8>>> {
    Arc::new(Raw)
}

fn sealed(items: &[&[u8]], level: Option<i32>) -> Vec<u8> {
    let mut records = Records::default();
    for item in items {
        records.push(&item.to_vec(), &Raw).expect("raw bytes can be encoded");
    }
    records.seal("raw", level)
}

#[test]
fn format_1_is_what_the_page_says_byte_by_byte() {
    let data = sealed(&[b"ab", b""], None);
    let expected = [
        &[1, 0, 3][..],
        b"raw",
        &[2, 0, 0, 0],
        &crc32c::crc32c(b"\x01\x00\x03raw\x02\0\0\0\x02\0\0\0ab\0\0\0\0").to_le_bytes(),
        &[2, 0, 0, 0],
        b"ab",
        &[0, 0, 0, 0],
    ]
    .concat();
    assert_eq!(data, expected);
    assert_eq!(open(&data, &codec()).unwrap(), [b"ab".to_vec(), Vec::new()]);
}

#[test]
fn every_flipped_bit_is_noticed() {
    let data = sealed(&[b"some bytes", b"and some more"], None);
    for bit in 0..data.len() * 8 {
        let mut flipped = data.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&flipped, &codec()).is_err(), "bit {bit}");
    }
}

#[test]
fn every_truncation_is_noticed() {
    let data = sealed(&[b"some bytes", b"and some more"], None);
    for len in 0..data.len() {
        assert!(open(&data[..len], &codec()).is_err(), "{len} bytes");
    }
}

#[test]
fn a_batch_of_another_codec_or_a_later_version_is_told_apart() {
    let data = sealed(&[b"1"], None);
    let json: Arc<dyn Codec<u32>> = Arc::new(Json);
    assert_eq!(
        open(&data, &json).unwrap_err(),
        FormatError::Codec { found: "raw".to_owned(), expected: "json" }
    );
    let mut later = data;
    later[0] = 2;
    assert_eq!(open(&later, &codec()).unwrap_err(), FormatError::Version { found: 2 });
}

#[test]
fn an_item_that_cannot_be_encoded_leaves_the_others_as_they_were() {
    let mut records = Records::default();
    let json: &dyn Codec<std::collections::HashMap<(u8, u8), u8>> = &Json;
    records.push(&std::collections::HashMap::new(), json).unwrap();
    let before = (records.len(), records.count());
    records.push(&std::collections::HashMap::from([((1, 2), 3)]), json).unwrap_err();
    assert_eq!((records.len(), records.count()), before);
}

#[test]
fn an_item_that_cannot_be_decoded_is_named() {
    let mut records = Records::default();
    records.push(&b"1".to_vec(), &Raw).unwrap();
    records.push(&b"one".to_vec(), &Raw).unwrap();
    let json: Arc<dyn Codec<u32>> = Arc::new(Json);
    let error = open(&records.seal("json", None), &json).unwrap_err();
    assert!(matches!(error, FormatError::Item { index: 1, .. }), "{error}");
}

#[cfg(feature = "zstd")]
#[test]
fn what_gets_smaller_is_stored_compressed() {
    let item = vec![7; 10_000];
    let data = sealed(&[&item], Some(1));
    assert!(data.len() < 200 && data[1] == ZSTD, "{} bytes", data.len());
    assert_eq!(open(&data, &codec()).unwrap(), [item]);
    assert_eq!(sealed(&[b"x"], Some(1))[1], PLAIN);
}

proptest! {
    #[test]
    fn what_was_stored_is_read(items: Vec<Vec<u8>>, level in proptest::option::of(1..4)) {
        let data = sealed(&items.iter().map(Vec::as_slice).collect::<Vec<_>>(), level);
        prop_assert_eq!(open(&data, &codec()).unwrap(), items);
    }

    #[test]
    fn no_bytes_are_too_odd_to_read(data: Vec<u8>) {
        let _ = open(&data, &codec());
    }
}
