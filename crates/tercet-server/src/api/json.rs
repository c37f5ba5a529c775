//! The only place that knows JSON: requests, responses and problems.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tercet_client::{ApiError, Reason};

use crate::node::{NodeEvent, Record};

/// A value: a string where it is UTF-8, else its bytes in base 64.
pub(super) fn value_to_json(value: &[u8]) -> Value {
    match std::str::from_utf8(value) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "base64": BASE64.encode(value) }),
    }
}

fn value_of_json(value: &Value) -> Result<Bytes, ApiError> {
    let bad = |why: &str| ApiError::new(Reason::Invalid, why);
    match value {
        Value::String(text) => Ok(Bytes::from(text.clone())),
        Value::Number(number) => Ok(Bytes::from(number.to_string())),
        Value::Bool(yes) => Ok(Bytes::from(yes.to_string())),
        Value::Object(object) if object.len() == 1 => {
            let text = object.get("base64").and_then(Value::as_str);
            let text =
                text.ok_or_else(|| bad("a record that is an object has the one key \"base64\""))?;
            BASE64
                .decode(text)
                .map(Bytes::from)
                .map_err(|_| bad("a record's base64 cannot be decoded"))
        }
        Value::Null | Value::Array(_) | Value::Object(_) => {
            Err(bad("a record is a string, a number, a boolean or {\"base64\": …}"))
        }
    }
}

/// The records of a JSON body: `{"records": […]}`, a list, or one record.
pub(super) fn records_of_json(body: &[u8]) -> Result<Vec<Bytes>, ApiError> {
    let body: Value = serde_json::from_slice(body).map_err(|error| {
        ApiError::new(Reason::Invalid, format!("the body is not JSON: {error}"))
    })?;
    match &body {
        Value::Object(object) if object.contains_key("records") => {
            if let Some(other) = object.keys().find(|key| *key != "records") {
                return Err(ApiError::new(
                    Reason::Invalid,
                    format!("the key \"{other}\" is unknown"),
                ));
            }
            match &object["records"] {
                Value::Array(records) => records.iter().map(value_of_json).collect(),
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::String(_)
                | Value::Object(_) => Err(ApiError::new(Reason::Invalid, "\"records\" is a list")),
            }
        }
        Value::Array(records) => records.iter().map(value_of_json).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            Ok(vec![value_of_json(&body)?])
        }
    }
}

pub(super) fn record_to_json(record: &Record) -> Value {
    json!({ "seq": record.seq, "value": value_to_json(&record.value) })
}

pub(super) fn records_to_json(records: &[Record], next_seq: u64) -> Value {
    let records: Vec<Value> = records.iter().map(record_to_json).collect();
    json!({ "records": records, "next_seq": next_seq })
}

pub(super) fn event_to_json(event: &NodeEvent, node: u8) -> Value {
    json!({
        "node": node,
        "seq": event.seq,
        "at_us": event.at_us,
        "term": event.term,
        "kind": event.kind,
        "text": event.text,
    })
}

/// `application/problem+json` (RFC 9457).
pub(super) fn problem(error: &ApiError, status: u16) -> Value {
    let mut problem = Map::new();
    problem.insert("title".to_owned(), error.reason.as_str().into());
    problem.insert("status".to_owned(), status.into());
    problem.insert("detail".to_owned(), error.message.clone().into());
    problem.insert("reason".to_owned(), error.reason.as_str().into());
    problem.insert("outcome".to_owned(), error.outcome.as_str().into());
    let optional = [
        ("retry_after_ms", error.retry_after_ms.map(Value::from)),
        ("leader", error.leader.clone().map(Value::from)),
        ("next_seq", error.next_seq.map(Value::from)),
        ("first_seq", error.first_seq.map(Value::from)),
    ];
    for (key, value) in optional {
        if let Some(value) = value {
            problem.insert(key.to_owned(), value);
        }
    }
    Value::Object(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_become_records() {
        let records = |body: &str| records_of_json(body.as_bytes());
        let values =
            |body: &str| records(body).unwrap().iter().map(|v| v.to_vec()).collect::<Vec<_>>();
        assert_eq!(
            values(r#"{"records": ["a", 1, true, {"base64": "/wA="}]}"#),
            [b"a".to_vec(), b"1".to_vec(), b"true".to_vec(), vec![255, 0]]
        );
        assert_eq!(values(r#"["a", ""]"#), [b"a".to_vec(), vec![]]);
        assert_eq!(values(r#""a\nb""#), [b"a\nb".to_vec()]);
        assert_eq!(values("44"), [b"44".to_vec()]);
        for bad in [
            "",
            "{",
            r#"{"records": 1}"#,
            r#"{"records": [], "x": 1}"#,
            "[null]",
            "[[1]]",
            r#"[{"base64": "?"}]"#,
            r#"{"value": 1}"#,
        ] {
            assert_eq!(records(bad).unwrap_err().reason, Reason::Invalid, "{bad}");
        }
    }

    #[test]
    fn values_are_strings_where_they_can_be() {
        assert_eq!(value_to_json("ä".as_bytes()), json!("ä"));
        assert_eq!(value_to_json(&[255]), json!({ "base64": "/w==" }));
    }
}
