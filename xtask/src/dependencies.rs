//! The dependencies: how many, and under which licences. `deny.toml` says the same for cargo-deny,
//! which also looks for advisories where it is installed.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::Value;

/// The most crates that a server may be made of.
const SERVER_CRATES_MAX: usize = 300;
/// Licences that go with Apache-2.0 OR MIT; an expression is fine if one of its alternatives is.
const LICENCES: [&str; 11] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Unicode-3.0",
    "Zlib",
    "0BSD",
    "Unlicense",
    "CC0-1.0",
];

pub(crate) fn check() -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .output()
        .context("cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages: BTreeMap<String, Value> = list(&metadata["packages"])
        .into_iter()
        .map(|package| (text(&package["id"]), package))
        .collect();
    for package in packages.values() {
        let licence = text(&package["license"]);
        let fits = |part: &str| LICENCES.contains(&part.trim_matches(['(', ')', ' ']));
        let fine =
            licence.replace('/', " OR ").split(" AND ").all(|all| all.split(" OR ").any(fits));
        if !fine {
            bail!(
                "{} has the licence \"{licence}\": it is not among those allowed",
                text(&package["name"])
            );
        }
    }
    let nodes: BTreeMap<String, Value> = list(&metadata["resolve"]["nodes"])
        .into_iter()
        .map(|node| (text(&node["id"]), node))
        .collect();
    let server = packages
        .values()
        .find(|package| package["name"] == "tercet-server")
        .context("tercet-server")?;
    let (mut seen, mut next) = (BTreeSet::new(), vec![text(&server["id"])]);
    while let Some(id) = next.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        for dependency in list(&nodes[&id]["deps"]) {
            let is_normal =
                list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
            if is_normal {
                next.push(text(&dependency["pkg"]));
            }
        }
    }
    println!(
        "licences of {} packages fit; a server is made of {} crates (at most {SERVER_CRATES_MAX})",
        packages.len(),
        seen.len()
    );
    if seen.len() > SERVER_CRATES_MAX {
        bail!("a server is made of {} crates", seen.len());
    }
    if Command::new("cargo-deny")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
    {
        let status = Command::new("cargo-deny")
            .args(["--offline", "check", "bans", "licenses", "sources"])
            .status()?;
        if !status.success() {
            bail!("cargo deny");
        }
    } else {
        println!("not run: cargo deny (it is not installed: cargo install cargo-deny)");
    }
    Ok(())
}
