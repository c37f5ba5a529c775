//! What may come in: limits on values, requests and bytes under way, and what a request id is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tercet_client::{ApiError, Outcome, Reason};

use crate::config::Limits;
use crate::metrics::Metrics;
use crate::node::{NodeHandle, Submit, Submitted};

/// The limits, and what is used of them.
#[derive(Debug)]
pub(crate) struct Intake {
    pub(crate) limits: Limits,
    inflight: AtomicUsize,
    metrics: Arc<Metrics>,
}

/// Bytes that are under way until this is dropped.
struct Admission<'a> {
    intake: &'a Intake,
    bytes: usize,
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        let before = self.intake.inflight.fetch_sub(self.bytes, Ordering::Relaxed);
        self.intake.metrics.note_inflight((before - self.bytes) as u64);
    }
}

impl Intake {
    pub(crate) fn new(limits: Limits, metrics: Arc<Metrics>) -> Self {
        Self { limits, inflight: AtomicUsize::new(0), metrics }
    }

    /// The largest message of a protocol that carries values with some words around them.
    pub(crate) fn message_bytes_max(&self) -> usize {
        self.limits.request_bytes_max + 8 * self.limits.request_records_max + (64 << 10)
    }

    /// When a request that came at `begun`, with this much time of its own or none, is given up.
    pub(crate) fn deadline(&self, begun: Instant, asked: Option<Duration>) -> Instant {
        begun + asked.unwrap_or(self.limits.deadline_default).min(Duration::from_secs(3600))
    }

    fn check(&self, records: &[Bytes]) -> Result<usize, ApiError> {
        let Limits { value_bytes_max, request_bytes_max, request_records_max, .. } = self.limits;
        if records.is_empty() {
            return Err(ApiError::new(Reason::Invalid, "a submit has one record at least"));
        }
        if records.len() > request_records_max {
            let why = format!(
                "{} records in one request; {request_records_max} are allowed",
                records.len()
            );
            return Err(ApiError::new(Reason::TooLarge, why));
        }
        if let Some(value) = records.iter().find(|value| value.len() > value_bytes_max) {
            let why = format!("a value of {} bytes; {value_bytes_max} are allowed", value.len());
            return Err(ApiError::new(Reason::TooLarge, why));
        }
        let bytes: usize = records.iter().map(Bytes::len).sum();
        if bytes > request_bytes_max {
            let why = format!("a request of {bytes} bytes; {request_bytes_max} are allowed");
            return Err(ApiError::new(Reason::TooLarge, why));
        }
        Ok(bytes)
    }

    fn admit(&self, bytes: usize) -> Result<Admission<'_>, ApiError> {
        // Every request weighs something, however small its values.
        let bytes = bytes + 256;
        let before = self.inflight.fetch_add(bytes, Ordering::Relaxed);
        let admission = Admission { intake: self, bytes };
        self.metrics.note_inflight((before + bytes) as u64);
        if before > 0 && before + bytes > self.limits.inflight_bytes_max {
            let mut error =
                ApiError::new(Reason::Overloaded, "too many bytes are under way: try again later");
            error.retry_after_ms = Some(50);
            return Err(error);
        }
        Ok(admission)
    }

    /// Checks a submit that came at `begun`, and sees it through.
    pub(crate) async fn submit(
        &self,
        node: &NodeHandle,
        submit: Submit,
        begun: Instant,
    ) -> Result<Submitted, ApiError> {
        let bytes = self.check(&submit.records)?;
        let _admission = self.admit(bytes)?;
        let result = crate::submit::run(node, submit, begun).await;
        self.metrics.observe_submit(begun.elapsed());
        result
    }
}

/// The 16 bytes of a gRPC request id, or a new one where there is none.
pub(crate) fn request_id(bytes: &[u8]) -> Result<u128, ApiError> {
    if bytes.is_empty() {
        return Ok(fresh_id());
    }
    let bytes = bytes.try_into().map_err(|_| {
        let why = format!("a request id has 16 bytes, this one has {}", bytes.len());
        ApiError::new(Reason::Invalid, why).with_outcome(Outcome::NotAppended)
    })?;
    Ok(u128::from_be_bytes(bytes))
}

fn fresh_id() -> u128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    tercet_client::request_id_at(u64::try_from(now.as_millis()).unwrap_or(0))
}

/// The request id that an `Idempotency-Key` header stands for: 32 hex digits or a UUID as they are;
/// any other text of 1 to 64 characters as a hash of it, marked as a UUID of version 8, so that it
/// is never taken for one that tells its age.
///
/// # Errors
/// `INVALID` for an empty key or one of more than 64 characters.
pub fn request_id_of_key(key: &str) -> Result<u128, ApiError> {
    let hex: String = key.chars().filter(|c| *c != '-').collect();
    let is_uuid = key.len() == 36 && [8, 13, 18, 23].iter().all(|at| key.as_bytes()[*at] == b'-');
    if (key.len() == 32 || is_uuid)
        && hex.len() == 32
        && let Ok(id) = u128::from_str_radix(&hex, 16)
    {
        return Ok(id);
    }
    if key.is_empty() || key.chars().count() > 64 {
        return Err(ApiError::new(Reason::Invalid, "an idempotency key has 1 to 64 characters"));
    }
    // FNV-1a with 128 bits: stable across versions, machines and languages.
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for byte in key.bytes() {
        hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    Ok(hash & !(0xf << 76) & !(0b11 << 62) | (8 << 76) | (0b10 << 62))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_ids() {
        let id = 0x0190_1234_5678_7abc_8def_0123_4567_89ab;
        assert_eq!(request_id_of_key("01901234567887abc8def0123456789a").unwrap() >> 124, 0);
        assert_eq!(request_id_of_key("01901234-5678-7abc-8def-0123456789ab").unwrap(), id);
        assert_eq!(request_id_of_key("0190123456787abc8def0123456789ab").unwrap(), id);
        let text = request_id_of_key("order 4711").unwrap();
        assert_eq!(text, request_id_of_key("order 4711").unwrap());
        assert_ne!(text, request_id_of_key("order 4712").unwrap());
        assert_eq!((text >> 76 & 0xf, text >> 62 & 0b11), (8, 0b10), "a UUID of version 8");
        assert!(request_id_of_key("").is_err());
        assert!(request_id_of_key(&"x".repeat(65)).is_err());
    }

    #[test]
    fn limits_hold_to_the_byte() {
        let limits = Limits {
            value_bytes_max: 10,
            request_bytes_max: 15,
            request_records_max: 3,
            inflight_bytes_max: 1000,
            ..Limits::default()
        };
        let intake = Intake::new(limits, Arc::default());
        let values =
            |sizes: &[usize]| sizes.iter().map(|n| Bytes::from(vec![b'x'; *n])).collect::<Vec<_>>();
        assert_eq!(intake.check(&values(&[10])).unwrap(), 10);
        assert_eq!(intake.check(&values(&[0, 5, 10])).unwrap(), 15);
        for (sizes, reason) in [
            (vec![11], Reason::TooLarge),
            (vec![8, 8], Reason::TooLarge),
            (vec![0, 0, 0, 0], Reason::TooLarge),
            (vec![], Reason::Invalid),
        ] {
            let error = intake.check(&values(&sizes)).unwrap_err();
            assert_eq!((error.reason, error.outcome), (reason, Outcome::NotAppended));
        }
        let first = intake.admit(500).unwrap();
        assert_eq!(intake.admit(500).err().unwrap().reason, Reason::Overloaded);
        drop(first);
        assert!(intake.admit(900).is_ok(), "what ended weighs nothing");
        assert!(intake.admit(5000).is_ok(), "one request is always admitted");
    }
}
