//! Damage at the edges of blocks and sectors: what only touches a bad place is whole, and where a
//! part lies on a disk makes no difference to what is cut.

#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

mod support;

use support::made::{FRAME_HEADER, HEADER, Made, two_segments};
use support::{append, disk_of, entry, image, segment, small, write};
use tercet_wal::{MemDisk, Survive, Wal, WalError};

/// A block that cannot be read takes what stands in it, and nothing that only touches it.
#[test]
fn an_unreadable_block_takes_what_stands_in_it() {
    const BLOCK: usize = 4096;
    let of = |index, bytes: usize| {
        let empty = entry(1, index, b"").frame.len();
        entry(1, index, &vec![7; bytes - empty])
    };
    // The first entry ends with a block, the second is one, and the third begins the next.
    let entries = vec![of(1, BLOCK - FRAME_HEADER), of(2, BLOCK), of(3, BLOCK), of(4, 100)];
    for (block, faulty) in [(1, vec![(1, 1)]), (2, vec![(2, 1)]), (3, vec![(3, 1)])] {
        let mut disk = MemDisk::new();
        let mut wal = Wal::create(&mut disk, small()).unwrap();
        write(&mut wal, &mut disk, append(entries.clone()));
        let from = (block * BLOCK) as u64;
        disk.fail_reads(&segment(1), from..from + BLOCK as u64);
        let (wal, _) = Wal::open(&mut disk, small()).unwrap();
        assert_eq!(wal.faulty().collect::<Vec<_>>(), faulty, "block {block}");
    }
}

/// A part of the last frame of which both copies are damaged may have been acknowledged: it is never
/// taken for one that a crash cut short, wherever its identifier lies in a sector.
#[test]
fn the_last_part_damaged_twice_is_never_cut() {
    for count in 0..70 {
        let mut made = Made::new();
        made.write(append((1..=count).map(|index| entry(1, index, b"x")).collect()));
        let frame = made.last();
        let last = frame.parts().len() - 1;
        let mut disk = disk_of(&made.image());
        disk.damage(&segment(1), frame.parts()[last].start + 20, &[1]);
        disk.damage(&segment(1), frame.id(last).start + 20, &[1]);
        let before = image(&disk);
        match Wal::open(&mut disk, small()) {
            Err(WalError::Corrupt { offset, .. }) => assert_eq!(offset, HEADER as u64),
            other => panic!("{count} entries: {:?}", other.map(|(_, recovered)| recovered)),
        }
        assert!(image(&disk) == before, "{count} entries");
    }
}

/// What was mended is durable before the log is used, in whichever segment it stands.
#[test]
fn what_was_mended_survives_a_crash() {
    let made = two_segments();
    for frame in &made.frames {
        for at in [frame.offset + 20, frame.id(0).start + 20] {
            let mut disk = disk_of(&made.image());
            disk.damage(&segment(frame.segment), at, &[1]);
            Wal::open(&mut disk, small()).unwrap();
            let mut after = disk.after_crash(Survive::None);
            assert!(image(&after) == made.image(), "segment {}, byte {at}", frame.segment);
            Wal::open(&mut after, small()).unwrap();
        }
    }
}
