//! The scenarios that come with the program: those of `scenarios/`, as they are.

/// A scenario of the library.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scenario {
    /// Its file's name without `.lab`.
    pub name: &'static str,
    /// The script.
    pub text: &'static str,
}

macro_rules! scenarios {
    ($($name:literal),* $(,)?) => {
        &[$(Scenario { name: $name, text: include_str!(concat!("../../../scenarios/", $name, ".lab")) }),*]
    };
}

/// All of them, in the order in which one would study them.
pub const SCENARIOS: &[Scenario] = scenarios![
    "election",
    "leader-change",
    "leader-crash-divergent-logs",
    "log-deleted-trust",
    "rejoin-rounds",
];

/// The scenario with this name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}
