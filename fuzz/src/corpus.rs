//! The stored inputs: `corpus/TARGET.bin`, each behind its length in 4 bytes, the short ones first.
//! One file for each target, because there are hundreds of inputs and nobody reads them one by one.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

use crate::Target;

fn path(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name).with_extension("bin")
}

/// The stored inputs of a target; none if it has no file yet.
///
/// # Errors
/// The file system's; [`ErrorKind::InvalidData`] if the file does not end where an input does.
pub fn stored(target: &Target) -> Result<Vec<Vec<u8>>> {
    let path = path(target);
    match fs::read(&path) {
        Ok(bytes) => unpack(&bytes).ok_or_else(|| {
            let text = format!("{} ends in the middle of an input", path.display());
            Error::new(ErrorKind::InvalidData, text)
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Stores these inputs of a target, and no others. Says how many bytes that makes.
///
/// # Errors
/// The file system's.
pub fn store(target: &Target, inputs: Vec<Vec<u8>>) -> Result<usize> {
    let bytes = pack(inputs);
    fs::write(path(target), &bytes)?;
    Ok(bytes.len())
}

fn pack(mut inputs: Vec<Vec<u8>>) -> Vec<u8> {
    inputs.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    inputs.dedup();
    let mut out = Vec::new();
    for input in inputs {
        let length = u32::try_from(input.len()).expect("inputs are short");
        out.extend(length.to_le_bytes());
        out.extend(input);
    }
    out
}

fn unpack(mut bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut inputs = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk()?;
        let (input, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        inputs.push(input.to_vec());
        bytes = rest;
    }
    Some(inputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked() {
        let inputs = vec![b"longer".to_vec(), vec![], b"b".to_vec(), b"a".to_vec(), b"b".to_vec()];
        let packed = pack(inputs);
        let sorted = vec![vec![], b"a".to_vec(), b"b".to_vec(), b"longer".to_vec()];
        assert_eq!(unpack(&packed), Some(sorted.clone()));
        assert_eq!(unpack(b""), Some(vec![]));
        for length in 1..packed.len() {
            let whole = unpack(&packed[..length]);
            assert!(whole.is_none_or(|whole| sorted.starts_with(&whole)), "cut at {length}");
        }
        assert_eq!(unpack(&packed[..packed.len() - 1]), None);
        assert_eq!(unpack(&[0, 0, 0]), None);
        assert_eq!(unpack(&[255, 255, 255, 255, 1]), None);
    }
}
