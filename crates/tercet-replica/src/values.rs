//! `values.log`: what a person reads, greps, diffs and tails. One line per record, in order:
//! `write 44`. Made from committed entries only; the same bytes on every node.
//!
//! It is not the truth, the write-ahead log is: nothing here is synced, and whatever happens to the
//! file, it is made again. So that a long one costs no pause, it is written in slices: the file's
//! own pointer (`written`) follows the applied index at its own pace. At a start it begins again at
//! the first entry, and what stands in the file from an earlier life is compared, not written.
//!
//! Escapes, so that one record is one line and any bytes come back: printable UTF-8 stands as it
//! is; a backslash is `\\`, a newline `\n`, a carriage return `\r`, a tab `\t`, and each byte of
//! any other control character or of what is not UTF-8 is `\xHH`.

use std::io;
use std::ops::Range;

use tercet_wal::{Bulk, Disk, DiskFile, Entry};

use crate::record::{RecordsError, values_of};

pub(crate) const FILE: &str = "values.log";
const PREFIX: &[u8] = b"write ";

/// Appends `value` to `out`, escaped.
pub fn escape_value(value: &[u8], out: &mut Vec<u8>) {
    // Nearly every value is plain: one look that a processor takes many bytes at a time for.
    let is_plain = |byte: &u8| (b' '..=b'~').contains(byte) && *byte != b'\\';
    if value.iter().fold(true, |all, byte| all & is_plain(byte)) {
        out.extend_from_slice(value);
        return;
    }
    for chunk in value.utf8_chunks() {
        let mut rest = chunk.valid();
        // Most of it stands as it is.
        while let Some(at) = rest.find(|c: char| c == '\\' || c.is_control()) {
            out.extend_from_slice(&rest.as_bytes()[..at]);
            let length = rest[at..].chars().next().map_or(0, char::len_utf8);
            match &rest[at..at + length] {
                "\\" => out.extend_from_slice(b"\\\\"),
                "\n" => out.extend_from_slice(b"\\n"),
                "\r" => out.extend_from_slice(b"\\r"),
                "\t" => out.extend_from_slice(b"\\t"),
                control => escape_bytes(control.as_bytes(), out),
            }
            rest = &rest[at + length..];
        }
        out.extend_from_slice(rest.as_bytes());
        escape_bytes(chunk.invalid(), out);
    }
}

fn escape_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.extend_from_slice(b"\\x");
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

/// The value that an escaped text stands for; `None` if the text was not made by [`escape_value`].
pub fn unescape_value(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        if *byte != b'\\' {
            out.push(*byte);
            continue;
        }
        out.push(match rest.next()? {
            b'\\' => b'\\',
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'x' => {
                let digit = |c: &u8| char::from(*c).to_digit(16);
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                u8::try_from(high * 16 + low).ok()?
            }
            _ => return None,
        });
    }
    Some(out)
}

/// The lines of an entry's records, appended to `out`.
pub(crate) fn render(entry: &Entry, out: &mut Vec<u8>) -> Result<(), RecordsError> {
    if entry.header.record_count == 0 {
        return Ok(());
    }
    for value in values_of(entry)? {
        out.extend_from_slice(PREFIX);
        escape_value(value, out);
        out.push(b'\n');
    }
    Ok(())
}

/// Why an entry's lines are not in the file.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// The entry cannot be rendered.
    Records(RecordsError),
    /// The file cannot be read or cut.
    File(io::Error),
}

/// The open file and how much of the log is in it.
#[derive(Debug)]
pub(crate) struct ValuesFile<F> {
    file: F,
    bulk: Bulk<F>,
    /// The length that the file must have, but for what was found behind it.
    bytes: u64,
    /// The last index whose records are in the file.
    written: u64,
    /// Lines to write at `bytes`.
    buffer: Vec<u8>,
    /// The length that the file had when it was opened: what stands between `bytes` and this is
    /// not compared with the log yet. Nothing is, if it is not above `bytes`.
    found: u64,
    /// A piece of the file that is being compared, and where it stands.
    read: Vec<u8>,
    read_at: u64,
    /// How many bytes of what was found were not those of the log, and are gone.
    cut: u64,
    /// Whether somebody cut the file: what was written since gave it its length back, behind a hole.
    was_cut: bool,
    /// Up to here the file was told of as settled.
    settled: u64,
}

/// How much of the file is read at a time.
const CHECK_BYTES: usize = 512 << 10;
/// How much of the file is settled at a time.
const SETTLED_AT_A_TIME: u64 = 256 << 10;
/// How much of what was settled before is named again: it may not have been written yet then.
const SETTLED_AGAIN: u64 = 64 << 20;

impl<F: DiskFile> ValuesFile<F> {
    /// Opens the file, or makes it. What is in it counts only as far as the log confirms it.
    pub(crate) fn open<D: Disk<File = F>>(disk: &mut D) -> io::Result<Self> {
        let file = match disk.open(FILE)? {
            Some(file) => file,
            None => disk.create(FILE)?,
        };
        let found = file.len()?;
        // What is found is compared a piece at a time, and others on this disk do not wait behind
        // more than that.
        file.read_ahead(false);
        Ok(Self {
            file,
            bulk: Bulk::default(),
            bytes: 0,
            written: 0,
            buffer: Vec::new(),
            found,
            read: Vec::new(),
            read_at: 0,
            cut: 0,
            was_cut: false,
            settled: 0,
        })
    }

    pub(crate) const fn written(&self) -> u64 {
        self.written
    }

    /// Whether something stands in the file that is not compared with the log yet.
    pub(crate) const fn is_unconfirmed(&self) -> bool {
        self.bytes < self.found
    }

    /// Adds the next entry's lines; they reach the file with [`Self::flush`]. As long as something
    /// is found there, it is compared with them, and cut where it differs.
    pub(crate) fn append(&mut self, entry: &Entry) -> Result<(), AppendError> {
        assert_eq!(entry.header.index, self.written + 1, "values are written in the log's order");
        if self.is_unconfirmed() {
            if self.confirm(entry).map_err(AppendError::File)? {
                return Ok(());
            }
            self.cut_unconfirmed().map_err(AppendError::File)?;
        }
        render(entry, &mut self.buffer).map_err(AppendError::Records)?;
        self.written = entry.header.index;
        Ok(())
    }

    /// Whether the next entry's lines are what was found: they count then.
    pub(crate) fn confirm(&mut self, entry: &Entry) -> io::Result<bool> {
        let mut lines = Vec::new();
        if render(entry, &mut lines).is_err() || !self.has_at_end(&lines)? {
            return Ok(false);
        }
        self.bytes += lines.len() as u64;
        self.written = entry.header.index;
        Ok(true)
    }

    fn has_at_end(&mut self, lines: &[u8]) -> io::Result<bool> {
        let (start, end) = (self.bytes, self.bytes + lines.len() as u64);
        if end > self.found {
            return Ok(false);
        }
        if start < self.read_at || end > self.read_at + self.read.len() as u64 {
            let left = usize::try_from(self.found - start).unwrap_or(usize::MAX);
            self.read.resize(lines.len().max(CHECK_BYTES.min(left)), 0);
            self.read_at = start;
            let mut filled = 0;
            while filled < lines.len() {
                match self.file.read_at(&mut self.read[filled..], start + filled as u64)? {
                    0 => break,
                    n => filled += n,
                }
            }
            self.read.truncate(filled);
        }
        let from = usize::try_from(start - self.read_at).expect("inside the buffer");
        Ok(self.read[from..].starts_with(lines))
    }

    /// What was found behind the confirmed lines is not the log's.
    pub(crate) fn cut_unconfirmed(&mut self) -> io::Result<()> {
        if self.is_unconfirmed() {
            self.file.set_len(self.bytes)?;
            self.cut = self.found - self.bytes;
            self.found = self.bytes;
        }
        self.read = Vec::new();
        Ok(())
    }

    /// How many bytes of what was found are gone since this was asked last.
    pub(crate) const fn take_cut(&mut self) -> u64 {
        std::mem::replace(&mut self.cut, 0)
    }

    /// Writes what was appended; `as_bulk` if much of it comes at a time.
    pub(crate) fn flush<D: Disk<File = F>>(&mut self, disk: &D, as_bulk: bool) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.was_cut |= self.file.len()? < self.bytes;
            let end = self.bytes + self.buffer.len() as u64;
            if as_bulk {
                self.bulk.write(disk, (&self.file, FILE), &[&self.buffer], self.bytes, end)?;
            } else {
                self.file.write_at(&self.buffer, self.bytes)?;
            }
            self.bytes = end;
            self.buffer.clear();
        }
        Ok(())
    }

    /// What need not stay in the system's memory, when that is enough to be worth a word: nobody
    /// here reads it again. It is given to the disk with that, a little at a time; the syncs of the
    /// log would wait behind much.
    pub(crate) fn take_settled(&mut self) -> Option<Range<u64>> {
        let settled = self.bytes - self.bytes % SETTLED_AT_A_TIME;
        let before = std::mem::replace(&mut self.settled, settled);
        (settled > before).then(|| before.saturating_sub(SETTLED_AGAIN)..settled)
    }

    /// Bytes that wait to be written.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Whether the file on disk is still the one that this node writes, with the length it wrote.
    pub(crate) fn is_intact<D: Disk<File = F>>(&self, disk: &D) -> io::Result<bool> {
        let is_whole = !self.was_cut && self.file.len()? == self.bytes.max(self.found);
        Ok(is_whole && disk.same_file(&self.file, FILE)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(value: &[u8]) -> String {
        let mut out = Vec::new();
        escape_value(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_file_is_settled_a_piece_at_a_time() {
        let mut disk = tercet_wal::MemDisk::new();
        let mut values = ValuesFile::open(&mut disk).unwrap();
        let mut write = |bytes: usize| {
            values.buffer = vec![b'x'; bytes];
            values.flush(&disk, false).unwrap();
            values.take_settled()
        };
        let piece = SETTLED_AT_A_TIME;
        assert_eq!(write(0), None);
        assert_eq!(write(256 << 10), Some(0..piece));
        assert_eq!(write((256 << 10) - 1), None);
        assert_eq!(write(1), Some(0..2 * piece), "with what was settled before");
        assert_eq!(write(70 << 20), Some(0..(70 << 20) + 2 * piece));
        let again = (6 << 20) + 2 * piece;
        assert_eq!(write(300 << 10), Some(again..(70 << 20) + 3 * piece), "not all of it");
    }

    #[test]
    fn much_at_once_is_the_same_lines() {
        let mut disk = tercet_wal::MemDisk::new();
        let mut values = ValuesFile::open(&mut disk).unwrap();
        let mut expected = Vec::new();
        for (lines, as_bulk) in [(3, true), (150_000, true), (1, false), (90_000, true), (2, true)]
        {
            for line in 0..lines {
                values.buffer.extend_from_slice(format!("write {line}\n").as_bytes());
            }
            expected.extend_from_slice(&values.buffer);
            values.flush(&disk, as_bulk).unwrap();
        }
        assert!(values.is_intact(&disk).unwrap());
        let mut found = vec![0; expected.len() + 1];
        assert_eq!(values.file.read_at(&mut found, 0).unwrap(), expected.len());
        assert!(found[..expected.len()] == expected[..]);
    }

    #[test]
    fn what_can_be_read_stands_as_it_is() {
        assert_eq!(escaped(b"44"), "44");
        assert_eq!(escaped("Grüße, 世界 🙂".as_bytes()), "Grüße, 世界 🙂");
        assert_eq!(escaped(b""), "");
    }

    #[test]
    fn what_would_break_a_line_or_hide_is_escaped() {
        assert_eq!(escaped(b"a\nb\r\tc\\d"), r"a\nb\r\tc\\d");
        assert_eq!(escaped(b"\0\x1b[31m\x7f"), r"\x00\x1b[31m\x7f");
        assert_eq!(escaped("\u{85}".as_bytes()), r"\xc2\x85");
        assert_eq!(escaped(b"\xff\xfea"), r"\xff\xfea");
    }

    /// One character after the other, the shortest that is valid.
    fn escaped_dumbly(value: &[u8]) -> String {
        let mut out = String::new();
        let mut at = 0;
        while at < value.len() {
            let valid = (1..=4).find_map(|n| std::str::from_utf8(value.get(at..at + n)?).ok());
            let bytes = valid.map_or(&value[at..=at], str::as_bytes);
            match valid {
                Some("\\") => out.push_str(r"\\"),
                Some("\n") => out.push_str(r"\n"),
                Some("\r") => out.push_str(r"\r"),
                Some("\t") => out.push_str(r"\t"),
                Some(text) if !text.chars().any(char::is_control) => out.push_str(text),
                Some(_) | None => {
                    let hex = bytes.iter().map(|byte| format!(r"\x{byte:02x}"));
                    out.extend(hex);
                }
            }
            at += bytes.len();
        }
        out
    }

    proptest! {
        #[test]
        fn the_same_as_the_dumb_way(
            value in proptest::collection::vec(prop_oneof![any::<u8>(), 0..32_u8, 0xc0..0xf8_u8, 0x80..0xa0_u8], 0..60),
            text in ".{0,20}",
        ) {
            prop_assert_eq!(escaped(&value), escaped_dumbly(&value));
            prop_assert_eq!(escaped(text.as_bytes()), escaped_dumbly(text.as_bytes()));
        }

        #[test]
        fn any_value_comes_back_and_is_one_line(value in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut out = Vec::new();
            escape_value(&value, &mut out);
            prop_assert!(std::str::from_utf8(&out).is_ok_and(|text| !text.chars().any(char::is_control)));
            prop_assert_eq!(unescape_value(&out), Some(value));
        }

        #[test]
        fn any_text_is_unescaped_without_panic(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = unescape_value(&text);
        }
    }
}
