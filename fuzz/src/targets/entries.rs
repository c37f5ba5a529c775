//! The bytes of an entry: header, records, the meaning that the core sees, the line that people see.

use bytes::Bytes;
use tercet_replica::{escape_value, meta_of, records_body, records_of, unescape_value};
use tercet_wal::{ENTRY_HEADER_BYTES, Entry};

use super::{KIB, MIB, no_words};
use crate::Target;
use crate::bytes_of::mend_entries;

pub(super) const ENTRY: Target = Target {
    name: "entry",
    about: "an entry and its records: read, written again, the same; escapes come back",
    run,
    seeds,
    words: no_words,
    bytes_max: 4 * KIB,
    memory_max: MIB,
};

fn run(input: &[u8]) {
    let mut escaped = Vec::new();
    escape_value(input, &mut escaped);
    assert!(std::str::from_utf8(&escaped).is_ok_and(|text| !text.chars().any(char::is_control)));
    assert_eq!(unescape_value(&escaped).as_deref(), Some(input));
    if let Some(value) = unescape_value(input) {
        let mut again = Vec::new();
        escape_value(&value, &mut again);
        assert_eq!(unescape_value(&again), Some(value));
    }

    let as_it_is = Entry::parse(Bytes::copy_from_slice(input));
    let mut mended = input.to_vec();
    mend_entries(&mut mended, usize::MAX);
    let mut rest = Bytes::from(mended);
    let mut count = 0;
    while let Ok(entry) = Entry::split_first(&mut rest) {
        check(&entry);
        count += 1;
    }
    if let Ok(entry) = as_it_is {
        check(&entry);
        assert_eq!(count, 1, "what fits as it is fits when it is mended");
    }
}

fn check(entry: &Entry) {
    let _ = meta_of(entry);
    assert_eq!(entry.frame.len(), ENTRY_HEADER_BYTES + entry.body().len());
    if let Ok(records) = records_of(entry) {
        assert_eq!(records.values.len(), entry.header.record_count as usize);
        let (pieces, digest) = records_body(records.request_id, &records.values);
        assert_eq!(pieces.concat(), entry.body());
        assert_eq!(digest, records.digest);
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let entry = |kind: u8, count: u32, body: &[u8]| {
        let mut bytes = vec![0; ENTRY_HEADER_BYTES];
        let length = u32::try_from(body.len()).expect("seeds are short");
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        bytes[8] = 1;
        bytes[16] = 1;
        bytes[32..36].copy_from_slice(&count.to_le_bytes());
        bytes[36] = kind;
        bytes.extend(body);
        mend_entries(&mut bytes, 1);
        bytes
    };
    let (pieces, _) = records_body(5, &[Bytes::from_static(b"a\nb"), Bytes::from_static(b"\xff")]);
    let readmit = [&[2][..], &[7; 16]].concat();
    vec![
        entry(1, 0, b""),
        entry(2, 2, &pieces.concat()),
        entry(2, u32::MAX, &pieces.concat()),
        entry(3, 0, &readmit),
        [entry(1, 0, b""), entry(3, 0, &readmit)].concat(),
        br"a\n\t\r\\\x00\xff".to_vec(),
        "Gr\u{fc}\u{df}e \u{85}\u{1f980}".as_bytes().to_vec(),
    ]
}
