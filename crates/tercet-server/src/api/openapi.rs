//! The description of the HTTP API, for tools.

/// `GET /openapi.json`.
pub(super) const OPENAPI: &str = include_str!("openapi.json");

#[cfg(test)]
mod tests {
    use super::*;

    /// The description names every path that is routed, and no other.
    #[test]
    fn it_describes_what_is_routed() {
        let described: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let described: Vec<&String> = described["paths"].as_object().unwrap().keys().collect();
        let mut routed: Vec<&str> = super::super::http::PATHS.to_vec();
        routed.sort_unstable();
        assert_eq!(described, routed);
    }
}
