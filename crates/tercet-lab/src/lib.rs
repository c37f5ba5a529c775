//! The lab: situations of Raft as scripts that anyone can read, run, change and share.
//!
//! A script is text (`.lab`), a page long. [`parse`] makes data of it, or says what is wrong and
//! where; the runner does it in a [`World`](ast::World), and says whether what it expects came true.
//! The language is described in docs/lab.md.

mod agent;
mod agents;
pub mod ast;
pub mod backend;
mod checker;
pub mod diagram;
mod judge;
pub mod library;
mod lint;
mod narrate;
mod parse;
mod processes;
mod real;
mod runner;
mod setup;
mod sim;

pub use agent::{AgentError, AgentOptions, serve_agent};
pub use agents::{Agents, Host, HostProcesses};
pub use checker::Violation;
pub use lint::{Warning, lint};
pub use narrate::is_worth_telling;
pub use parse::{ScriptError, mutant_names, parse, parse_step};
pub use processes::{NodeProcesses, Processes, end_all, free_ports};
pub use real::{RealBackend, RealOptions, RealSetup};
pub use runner::{Failure, Lab, Path, Progress, Report, Runner, paths, run};
pub use setup::NodeGiven;
pub use sim::{SimBackend, lab_event};
