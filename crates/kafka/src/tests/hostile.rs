//! Bytes that no client should send: refused with an error, without a panic and without memory for
//! what they only claim.

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::fake::{FakeBroker, context};
use super::handlers::{fetch, produce};
use crate::api::{ApiKey, Call};
use crate::handlers;
use crate::wire::{DecodeError, MAX_ITEMS_PER_REQUEST, MAX_TAGGED_FIELDS, Reader};

fn decode(api: ApiKey, version: i16, rest: Bytes) -> Result<(), DecodeError> {
    let call = Call {
        api,
        version,
        correlation: 1,
    };
    let context = context(&FakeBroker::new());
    handlers::start(&context, call, rest).map(drop)
}

fn all() -> impl Iterator<Item = (ApiKey, i16)> {
    ApiKey::ALL
        .into_iter()
        .flat_map(|api| api.versions().map(move |version| (api, version)))
}

/// A null client id, no header tags, and then `body`.
fn framed(api: ApiKey, version: i16, body: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(-1);
    if api.is_flexible(version) {
        bytes.put_u8(0);
    }
    bytes.put_slice(body);
    bytes.freeze()
}

#[test]
fn array_counts_beyond_the_bytes_are_refused_before_anything_is_reserved() {
    for count in [0x7fff_ffff_i32, 100_000_000, 1_000_000, -2, i32::MIN] {
        for version in 0..=8 {
            let body = framed(ApiKey::Metadata, version, &count.to_be_bytes());
            assert!(decode(ApiKey::Metadata, version, body).is_err());
        }
    }
    for count in [
        [0xff, 0xff, 0xff, 0xff, 0x0f],
        [0xff; 5],
        [0xff, 0xff, 0xff, 0xff, 0x07],
    ] {
        for version in 9..=13 {
            let body = framed(ApiKey::Metadata, version, &count);
            assert!(decode(ApiKey::Metadata, version, body).is_err());
        }
    }
}

#[test]
fn arrays_are_bounded_by_their_maximum_even_if_the_bytes_are_there() {
    let mut body = BytesMut::new();
    body.put_i32(1_000_000);
    body.put_bytes(0, 2_000_000);
    let refused = decode(ApiKey::Metadata, 1, framed(ApiKey::Metadata, 1, &body));
    assert!(matches!(
        refused,
        Err(DecodeError::TooMany {
            count: 1_000_000,
            ..
        })
    ));
}

#[test]
fn nested_arrays_share_one_budget_of_items() {
    // Two inner arrays that are allowed alone, but not together with the first.
    let inner = MAX_ITEMS_PER_REQUEST / 2;
    let mut body = BytesMut::new();
    body.put_i32(2);
    for _ in 0..2 {
        body.put_i32(i32::try_from(inner).unwrap());
        body.put_bytes(0, inner);
    }
    let mut reader = Reader::new(body.freeze(), false);
    let read = reader.array("outer", 10, 4, |reader| {
        reader.array("inner", usize::MAX, 1, |reader| reader.i8("item"))
    });
    assert!(
        matches!(read, Err(DecodeError::TooMany { what: "inner", .. })),
        "{read:?}"
    );
}

#[test]
fn tagged_fields_are_skipped_and_bounded() {
    let read = |bytes: &[u8]| {
        let mut reader = Reader::new(Bytes::copy_from_slice(bytes), true);
        reader.skip_tags().and_then(|()| reader.finish())
    };
    assert_eq!(read(&[1, 99, 2, 7, 7]), Ok(()));
    assert!(matches!(
        read(&[1, 99, 3, 7, 7]),
        Err(DecodeError::Truncated { .. })
    ));
    let many = u8::try_from(MAX_TAGGED_FIELDS + 1).unwrap();
    assert!(matches!(read(&[many]), Err(DecodeError::TooMany { .. })));
    assert!(matches!(
        read(&[0xff; 6]),
        Err(DecodeError::BadVarint { .. })
    ));
}

#[test]
fn a_known_tag_must_be_read_to_its_end() {
    // Cluster id "a" in a field of three bytes.
    let body = [&[0u8; 21][..], &[1, 1, 1, 1, 0, 3, 2, b'a', 0]].concat();
    let whole = framed(ApiKey::Fetch, 15, &body);
    let mut short = body;
    short[26] = 2;
    short.truncate(29);
    let refused = decode(ApiKey::Fetch, 15, whole);
    assert!(
        matches!(refused, Err(DecodeError::BadTag { tag: 0, .. })),
        "{refused:?}"
    );
    assert_eq!(
        decode(ApiKey::Fetch, 15, framed(ApiKey::Fetch, 15, &short)),
        Ok(())
    );
}

#[test]
fn trailing_bytes_and_every_truncation_are_refused() {
    let cut_everywhere = |api: ApiKey, version: i16, frame: Bytes| {
        let rest = frame.slice(8..);
        assert_eq!(decode(api, version, rest.clone()), Ok(()));
        for length in 0..rest.len() {
            assert!(
                decode(api, version, rest.slice(..length)).is_err(),
                "{api:?} {version} {length}"
            );
        }
        let mut longer = BytesMut::from(rest.as_ref());
        longer.put_u8(0);
        let refused = decode(api, version, longer.freeze());
        assert_eq!(refused, Err(DecodeError::Trailing(1)));
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    for version in ApiKey::Produce.versions() {
        let frame = super::fake::encode(version, 1, &produce("v", -1));
        cut_everywhere(ApiKey::Produce, version, frame);
    }
    for version in ApiKey::Fetch.versions() {
        let frame = super::fake::encode(version, 1, &fetch(version, 0, 0));
        cut_everywhere(ApiKey::Fetch, version, frame);
    }
}

#[test]
fn strings_must_be_utf8_and_present() {
    let refused = decode(
        ApiKey::Metadata,
        1,
        framed(ApiKey::Metadata, 1, &[0, 0, 0, 1, 0, 1, 0xff]),
    );
    assert!(matches!(refused, Err(DecodeError::NotUtf8 { .. })));
    let refused = decode(
        ApiKey::Metadata,
        1,
        framed(ApiKey::Metadata, 1, &[0, 0, 0, 1, 0xff, 0xff]),
    );
    assert!(matches!(refused, Err(DecodeError::Null { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_bytes_never_panic_a_decoder(
        body in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        for (api, version) in all() {
            let _either = decode(api, version, Bytes::from(body.clone()));
            let _either = decode(api, version, framed(api, version, &body));
        }
    }

    /// Small numbers make counts and lengths that are met, so that decoding gets further.
    #[test]
    fn small_bytes_never_panic_a_decoder(
        body in prop::collection::vec(prop_oneof![Just(0u8), Just(0), Just(1), Just(2), 0u8..6], 0..300),
    ) {
        for (api, version) in all() {
            let _either = decode(api, version, framed(api, version, &body));
        }
    }
}
