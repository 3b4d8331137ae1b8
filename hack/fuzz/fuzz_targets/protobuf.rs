//! Protobuf: as it comes, and as a Pod in its envelope; what is decoded is encoded again and comes back the same.
#![no_main]
use controller_object::media::MediaType;
use controller_object::protobuf;

/// Magic, and the type of a Pod: field 1 of `runtime.Unknown`.
const POD: &[u8] = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12";

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz::body(MediaType::Protobuf, bytes);
    let Ok(length) = u8::try_from(bytes.len()) else { return };
    let mut envelope = POD.to_vec();
    match length {
        0..0x80 => envelope.push(length),
        _ => envelope.extend([length, 1]),
    }
    envelope.extend(bytes);
    fuzz::body(MediaType::Protobuf, &envelope);
    if let Ok(value) = protobuf::decode(&envelope) {
        let again = protobuf::encode(&value).expect("what was decoded has a form");
        assert_eq!(protobuf::decode(&again).expect("what was encoded is read"), value);
    }
});
