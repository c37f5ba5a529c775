//! What goes to the terminal: data on standard output, everything else on standard error.

use std::io::{self, IsTerminal, Write};

use tercet_client::{ApiError, Outcome};

/// A failure with an exit code of its own.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// An error of the API with its exit code: 4 if nobody can know, 3 if it may work later.
pub(crate) fn api_failure(error: &ApiError) -> anyhow::Error {
    let code = match (error.outcome, error.is_retryable()) {
        (Outcome::Unknown, _) => 4,
        (Outcome::NotAppended, true) => 3,
        (Outcome::NotAppended, false) => 1,
    };
    Failure::new(code, error.to_string()).into()
}

/// Prints a line of data. A reader that went away is no error of ours: see [`is_broken_pipe`].
pub(crate) fn line(text: impl AsRef<[u8]>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref())?;
    out.write_all(b"\n")
}

pub(crate) fn note(text: &str) {
    // Nobody reads standard error any more: there is nobody to tell.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

pub(crate) fn error(text: &str) {
    let mark = if io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        "\x1b[31merror:\x1b[0m"
    } else {
        "error:"
    };
    note(&format!("{mark} {text}"));
}

pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(broken))
}

/// A value for a person: as it is if it can be read, else escaped as in `values.log`.
pub(crate) fn shown(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    tercet_replica::escape_value(value, &mut out);
    out
}

/// A progress bar on standard error, or nothing if that is no terminal.
pub(crate) fn progress(length: u64, what: &str) -> indicatif::ProgressBar {
    if !io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    let style = indicatif::ProgressStyle::with_template("{msg} {bar:40} {percent}% {eta}")
        .expect("the template is well-formed");
    indicatif::ProgressBar::new(length).with_style(style).with_message(what.to_owned())
}
