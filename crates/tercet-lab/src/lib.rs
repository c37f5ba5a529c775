//! The lab: situations of Raft as scripts that anyone can read, run, change and share.
//!
//! A script is text (`.lab`), a page long. [`parse`] makes data of it, or says what is wrong and
//! where; the runner does it in a [`World`](ast::World), and says whether what it expects came true.
//! The language is described in docs/lab.md.

pub mod ast;
pub mod backend;
mod checker;
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

pub use checker::Violation;
pub use lint::{Warning, lint};
pub use narrate::is_worth_telling;
pub use parse::{ScriptError, parse, parse_step};
pub use processes::{Processes, end_all};
pub use real::{RealBackend, RealOptions, RealSetup};
pub use runner::{Failure, Path, Progress, Report, Runner, paths, run};
pub use sim::SimBackend;
