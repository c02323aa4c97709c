//! What a node says about itself on `/status`.

use crate::failure::Failure;

/// The members of `/status` that tests look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The node's name.
    pub node: String,
    /// Its broker id, once registered.
    pub broker: Option<i32>,
    /// The cluster's id, once known.
    pub cluster: Option<String>,
    /// The name of the controller, as far as this node knows.
    pub controller: Option<String>,
    /// The Raft term.
    pub term: u64,
    /// The index up to which metadata was applied.
    pub applied: u64,
    /// The hash of the metadata at that index.
    pub metadata_hash: String,
    /// Registered brokers that are not fenced.
    pub active_brokers: u64,
    /// Partitions with fewer in-sync replicas than replicas.
    pub under_replicated_partitions: u64,
    /// Partitions without a leader.
    pub offline_partitions: u64,
    /// Whether this node is fenced.
    pub fenced: bool,
}

impl Status {
    /// Reads the JSON object of `/status`: flat, and without escapes in its strings.
    pub fn parse(json: &str) -> Result<Self, Failure> {
        let text = |key: &str| -> Result<Option<String>, Failure> {
            let missing = || Failure::new(format!("no {key} in the status {json}"));
            let mark = format!("\"{key}\":");
            let (_, rest) = json.split_once(&mark).ok_or_else(missing)?;
            let value = rest.split([',', '}']).next().ok_or_else(missing)?.trim();
            Ok((value != "null").then(|| value.trim_matches('"').to_owned()))
        };
        let needed = |key: &str| -> Result<String, Failure> {
            text(key)?.ok_or_else(|| Failure::new(format!("{key} is null in the status {json}")))
        };
        let number = |key: &str| -> Result<u64, Failure> {
            let value = needed(key)?;
            value
                .parse()
                .map_err(|e| Failure::new(format!("{key} in the status {json}: {e}")))
        };
        Ok(Self {
            node: needed("node")?,
            broker: text("broker")?.and_then(|id| id.parse().ok()),
            cluster: text("cluster")?,
            controller: text("controller")?,
            term: number("term")?,
            applied: number("applied")?,
            metadata_hash: needed("metadata_hash")?,
            active_brokers: number("active_brokers")?,
            under_replicated_partitions: number("under_replicated_partitions")?,
            offline_partitions: number("offline_partitions")?,
            fenced: needed("fenced")? == "true",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_and_what_is_missing_is_named() {
        let json = "{\"node\":\"node-1\",\"broker\":null,\"cluster\":\"c\",\"controller\":\"node-2\",\
                    \"term\":3,\"applied\":12,\"metadata_hash\":\"00ff\",\"active_brokers\":2,\
                    \"offline_partitions\":0,\"under_replicated_partitions\":5,\"fenced\":true}";
        let status = Status::parse(json).unwrap();
        assert_eq!(
            (status.node.as_str(), status.broker, status.term),
            ("node-1", None, 3)
        );
        assert_eq!(status.controller.as_deref(), Some("node-2"));
        assert_eq!(status.metadata_hash, "00ff");
        assert_eq!(status.under_replicated_partitions, 5);
        assert!(status.fenced);
        let error = Status::parse("{\"node\":\"node-1\"}").unwrap_err();
        assert!(error.to_string().contains("no broker"), "{error}");
    }
}
