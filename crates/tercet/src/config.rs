//! Where a node's configuration comes from: flags before the environment before the file before
//! the defaults. (The environment is read by the argument parser.)

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use serde::de::{self, Deserializer};
use tercet_raft::Profile;
use tercet_server::{LabConfig, ServerConfig};

use crate::args::ServeArgs;
use crate::output::Failure;

/// Where clients connect if nothing else is said.
const LISTEN_DEFAULT: &str = "127.0.0.1:7100";

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    cluster: ClusterSection,
    #[serde(default)]
    node: NodeSection,
    #[serde(default)]
    timing: TimingSection,
    #[serde(default)]
    limits: LimitsSection,
    #[serde(default)]
    storage: StorageSection,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields)]
struct ClusterSection {
    name: Option<String>,
    #[serde(default)]
    node: Vec<Member>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Member {
    id: u8,
    peer: String,
    client: Option<String>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields)]
struct NodeSection {
    id: Option<u8>,
    data: Option<PathBuf>,
    listen: Option<SocketAddr>,
    peer_listen: Option<SocketAddr>,
    advertise: Option<String>,
    insecure: Option<bool>,
    api_threads: Option<usize>,
    #[serde(default, deserialize_with = "time")]
    busy_poll: Option<Duration>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields)]
struct TimingSection {
    #[serde(default, deserialize_with = "time")]
    heartbeat: Option<Duration>,
    #[serde(default, deserialize_with = "range")]
    election: Option<(Duration, Duration)>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields)]
struct LimitsSection {
    #[serde(default, deserialize_with = "size")]
    value: Option<u64>,
    #[serde(default, deserialize_with = "size")]
    request: Option<u64>,
    #[serde(default, deserialize_with = "size")]
    inflight: Option<u64>,
    records: Option<usize>,
    connections: Option<usize>,
    #[serde(default, deserialize_with = "time")]
    deadline: Option<Duration>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields)]
struct StorageSection {
    #[serde(default, deserialize_with = "size")]
    segment: Option<u64>,
    #[serde(default, deserialize_with = "size")]
    disk_reserve: Option<u64>,
}

fn text<'de, D: Deserializer<'de>, T>(
    from: D,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(from)?;
    parse(&text).map(Some).map_err(de::Error::custom)
}

fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    text(from, parse_time)
}

fn range<'de, D: Deserializer<'de>>(from: D) -> Result<Option<(Duration, Duration)>, D::Error> {
    text(from, parse_range)
}

fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    text(from, parse_size)
}

/// A duration such as `500ms`.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim())
        .map_err(|_| format!("\"{text}\" is not a duration such as \"500ms\" or \"10s\""))
}

/// Two durations such as `150ms..300ms`.
pub(crate) fn parse_range(text: &str) -> Result<(Duration, Duration), String> {
    let bad = || format!("\"{text}\" is not a range such as \"150ms..300ms\"");
    let (min, max) = text.split_once("..").ok_or_else(bad)?;
    Ok((parse_time(min).map_err(|_| bad())?, parse_time(max).map_err(|_| bad())?))
}

/// A size such as `64MiB`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("\"{text}\" is not a size such as \"64MiB\" or \"4096\"");
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(bad()),
    };
    number.checked_mul(factor).ok_or_else(bad)
}

/// `1=host:port,2=host:port,…`
pub(crate) fn parse_cluster(text: &str) -> Result<BTreeMap<u8, String>, String> {
    let mut members = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (id, address) = part.split_once('=').ok_or_else(|| {
            format!("--cluster: \"{part}\" is not ID=HOST:PORT, such as 1=127.0.0.1:7201")
        })?;
        let id: u8 =
            id.trim().parse().map_err(|_| format!("--cluster: \"{id}\" is not a node's number"))?;
        check_address(address.trim())?;
        if members.insert(id, address.trim().to_owned()).is_some() {
            return Err(format!("--cluster: node {id} is named twice"));
        }
    }
    Ok(members)
}

fn check_address(address: &str) -> Result<(), String> {
    let port = address.rsplit_once(':').map(|(host, port)| (host.is_empty(), port.parse::<u16>()));
    match port {
        Some((false, Ok(port))) if port > 0 => Ok(()),
        _ => Err(format!("\"{address}\" is not an address such as 10.0.0.4:7201")),
    }
}

/// Reads a configuration file, with errors that name the file, the line and what was meant.
fn read_file(path: &Path) -> anyhow::Result<File> {
    let content = std::fs::read_to_string(path)
        .with_context(|| format!("{}: cannot be read", path.display()))
        .map_err(|error| Failure::new(2, format!("{error:#}")))?;
    parse_file(&content).map_err(|why| Failure::new(2, format!("{}:{why}", path.display())).into())
}

fn parse_file(content: &str) -> Result<File, String> {
    parse_toml(content)
}

/// What a file says, or what is wrong with it, with the line in front.
pub(crate) fn parse_toml<T: de::DeserializeOwned>(content: &str) -> Result<T, String> {
    toml::from_str(content).map_err(|error| {
        let line = error
            .span()
            .map_or(1, |span| content[..span.start.min(content.len())].matches('\n').count() + 1);
        let message = error.message().trim();
        let suggestion =
            suggestion(message).map_or(String::new(), |key| format!(". Did you mean \"{key}\"?"));
        format!("{line}: {message}{suggestion}")
    })
}

/// The known key that is nearest to an unknown one, from serde's message.
fn suggestion(message: &str) -> Option<String> {
    let mut quoted = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    let nearest = quoted.min_by_key(|key| distance(unknown, key))?;
    (distance(unknown, nearest) <= 1 + unknown.len() / 3).then(|| nearest.to_owned())
}

/// How many letters to change, add or remove (Levenshtein).
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn lab_config(args: &ServeArgs) -> Result<LabConfig, String> {
    Ok(LabConfig {
        profile: if args.lab_profile == "paper" { Profile::Paper } else { Profile::Modern },
        rules: tercet_server::broken_rules(&args.lab_broken_rules)?,
        timers_frozen: args.lab_frozen_timers,
        gate: args.lab_gate.iter().map(|rule| rule.parse()).collect::<Result<_, _>>()?,
        token: std::env::var("TERCET_LAB_TOKEN").ok().filter(|token| !token.is_empty()),
    })
}

/// The configuration of a node, checked.
pub(crate) fn server_config(args: &ServeArgs) -> anyhow::Result<ServerConfig> {
    let usage = |why: String| anyhow::Error::from(Failure::new(2, why));
    let file = match &args.config {
        Some(path) => read_file(path)?,
        None => File::default(),
    };
    let id = args.id.or(file.node.id).ok_or_else(|| {
        usage("which node is this? Say --id 1, or id = 1 under [node] in the file".to_owned())
    })?;
    let mut advertised = None;
    let members = match &args.cluster {
        Some(text) => parse_cluster(text).map_err(usage)?,
        None => {
            let mut members = BTreeMap::new();
            for member in &file.cluster.node {
                check_address(&member.peer).map_err(usage)?;
                if members.insert(member.id, member.peer.clone()).is_some() {
                    return Err(usage(format!(
                        "node {} is listed twice under [[cluster.node]]",
                        member.id
                    )));
                }
                if member.id == id {
                    advertised.clone_from(&member.client);
                }
            }
            members
        }
    };
    if members.is_empty() {
        return Err(usage(
            "which nodes are there? Say --cluster 1=host1:7201,2=host2:7201,3=host3:7201, or list them under \
             [[cluster.node]] in the file"
                .to_owned(),
        ));
    }
    let data = args.data.clone().or(file.node.data).ok_or_else(|| {
        usage(
            "where is the data? Say --data DIR, or data = \"DIR\" under [node] in the file"
                .to_owned(),
        )
    })?;
    let listen = args
        .listen
        .or(file.node.listen)
        .unwrap_or_else(|| LISTEN_DEFAULT.parse().expect("it is an address"));
    let mut config = ServerConfig::new(id, members, data, listen);
    if let Some(name) = args.cluster_name.clone().or(file.cluster.name) {
        config.cluster_name = name;
    }
    config.advertise = args.advertise.clone().or(file.node.advertise).or(advertised);
    config.peer_listen = args.peer_listen.or(file.node.peer_listen);
    config.insecure = args.insecure || file.node.insecure.unwrap_or(false);
    config.api_threads = args.api_threads.or(file.node.api_threads);
    let from_flag = |text: &Option<String>| text.as_deref().map(parse_time).transpose();
    if let Some(time) = from_flag(&args.busy_poll).map_err(usage)?.or(file.node.busy_poll) {
        config.busy_poll = time;
    }
    if let Some(heartbeat) = from_flag(&args.heartbeat).map_err(usage)?.or(file.timing.heartbeat) {
        config.timing.heartbeat = heartbeat;
    }
    let election = args.election.as_deref().map(parse_range).transpose().map_err(usage)?;
    if let Some((min, max)) = election.or(file.timing.election) {
        (config.timing.election_min, config.timing.election_max) = (min, max);
    }
    let bytes = |text: &Option<String>| text.as_deref().map(parse_size).transpose();
    if let Some(segment) = bytes(&args.segment).map_err(usage)?.or(file.storage.segment) {
        config.segment_bytes = segment.clamp(1 << 20, 2 << 30);
    }
    if let Some(reserve) = bytes(&args.disk_reserve).map_err(usage)?.or(file.storage.disk_reserve) {
        config.disk_reserve_bytes = reserve;
    }
    config.lab = args.lab.then(|| lab_config(args)).transpose().map_err(usage)?;
    let limits = &mut config.limits;
    let to_usize = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    limits.value_bytes_max = file.limits.value.map_or(limits.value_bytes_max, to_usize);
    limits.request_bytes_max = file.limits.request.map_or(limits.request_bytes_max, to_usize);
    limits.inflight_bytes_max = file.limits.inflight.map_or(limits.inflight_bytes_max, to_usize);
    limits.request_records_max = file.limits.records.unwrap_or(limits.request_records_max);
    limits.connections_max = file.limits.connections.unwrap_or(limits.connections_max);
    limits.deadline_default = file.limits.deadline.unwrap_or(limits.deadline_default);
    config.check().map_err(usage)?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
[cluster]
name = "demo"
[[cluster.node]]
id = 1
peer = "127.0.0.1:7201"
client = "127.0.0.1:7101"
[[cluster.node]]
id = 2
peer = "127.0.0.1:7202"
[[cluster.node]]
id = 3
peer = "127.0.0.1:7203"
[node]
id = 1
data = "/tmp/n1"
listen = "127.0.0.1:7101"
busy_poll = "20us"
[timing]
heartbeat = "20ms"
election = "100ms..200ms"
[limits]
value = "64KiB"
"#;

    fn with_file(content: &str, args: ServeArgs) -> anyhow::Result<ServerConfig> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        server_config(&ServeArgs { config: Some(file.path().to_owned()), ..args })
    }

    #[test]
    fn flags_go_before_the_file() {
        let config = with_file(FILE, ServeArgs::default()).unwrap();
        assert_eq!((config.node, config.cluster_name.as_str()), (1, "demo"));
        assert_eq!(config.timing.election_max, Duration::from_millis(200));
        assert_eq!(config.limits.value_bytes_max, 65536);
        assert_eq!(config.busy_poll, Duration::from_micros(20));
        assert_eq!(config.advertise.as_deref(), Some("127.0.0.1:7101"));
        let args = ServeArgs {
            id: Some(2),
            election: Some("300ms..400ms".to_owned()),
            busy_poll: Some("0us".to_owned()),
            cluster: Some("1=a:1,2=b:2,3=c:3".to_owned()),
            ..ServeArgs::default()
        };
        let config = with_file(FILE, args).unwrap();
        assert_eq!((config.node, config.members[&3].as_str()), (2, "c:3"));
        assert_eq!(config.timing.election_min, Duration::from_millis(300));
        assert_eq!(config.busy_poll, Duration::ZERO);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let error = |content: &str| parse_file(content).unwrap_err();
        let typo = error("[node]\nid = 1\nlissten = \"127.0.0.1:1\"\n");
        assert!(
            typo.starts_with("3: unknown field `lissten`")
                && typo.ends_with("Did you mean \"listen\"?"),
            "{typo}"
        );
        let wrong = error("[node]\nid = \"one\"\n");
        assert!(wrong.starts_with("2: invalid type: string"), "{wrong}");
        let time = error("[timing]\n\nheartbeat = \"soon\"\n");
        assert!(time.starts_with("3: \"soon\" is not a duration"), "{time}");
        assert!(error("[node\n").starts_with("1: "));
        let far = error("[node]\nxyzzyplugh = 1\n");
        assert!(!far.contains("Did you mean"), "{far}");
    }

    #[test]
    fn sizes_and_lists() {
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("4096"), Ok(4096));
        assert!(parse_size("64 bananas").is_err() && parse_size("").is_err());
        assert!(parse_cluster("1=a:1,1=b:2").unwrap_err().contains("twice"));
        assert!(parse_cluster("1=a").unwrap_err().contains("not an address"));
        assert!(parse_cluster("a:1").unwrap_err().contains("ID=HOST:PORT"));
    }

    #[test]
    fn a_cluster_of_two_a_public_port_and_a_node_that_never_sleeps_are_refused() {
        let two = ServeArgs { cluster: Some("1=a:1,2=b:2".to_owned()), ..ServeArgs::default() };
        assert!(with_file(FILE, two).unwrap_err().to_string().contains("1, 3, 5 or 7 nodes"));
        let public =
            ServeArgs { listen: Some("0.0.0.0:7101".parse().unwrap()), ..ServeArgs::default() };
        assert!(with_file(FILE, public).unwrap_err().to_string().contains("--insecure"));
        let awake = ServeArgs { busy_poll: Some("1s".to_owned()), ..ServeArgs::default() };
        let error = with_file(FILE, awake).unwrap_err().to_string();
        assert!(error.contains("busy polling for 1s: at most 5ms"), "{error}");
    }
}
