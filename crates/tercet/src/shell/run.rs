//! `tercet do`: lines that are known, run one after the other until one fails.

use std::collections::VecDeque;

use serde_json::json;
use tercet_lab::ast::ClientState;

use super::input::Given;
use super::voice::Said;
use super::{Line, Next, Shell, Voice, World};
use crate::output::{self, Failure};

/// How one command ended.
#[derive(Debug)]
struct Ended {
    /// The exit code that says so.
    code: u8,
    error: Option<String>,
}

impl Ended {
    fn of(result: anyhow::Result<Next>, said: &Said, is_checked: bool) -> Self {
        let told = match said.answer {
            Some(ClientState::Unknown) => 4,
            Some(ClientState::Refused) => 3,
            Some(ClientState::Ok | ClientState::Waiting) | None => 0,
        };
        match result {
            // What was expected came true, whatever it is.
            Ok(_) if is_checked => Self { code: 0, error: None },
            Ok(_) => Self { code: told, error: None },
            Err(error) => {
                let code = error.downcast_ref::<Failure>().map_or(1, |failure| failure.code);
                Self { code: if told > 0 { told } else { code }, error: Some(format!("{error:#}")) }
            }
        }
    }
}

/// Runs lines in a world until one fails; says the exit code. With `json` each gives one object.
pub(crate) fn do_lines(
    world: &mut dyn World,
    voice: &Voice,
    lines: &[String],
) -> anyhow::Result<u8> {
    let mut input = Given(VecDeque::new());
    let mut shell = Shell::new(world, &mut input, voice.clone());
    // All is understood before anything is done.
    for text in lines {
        shell
            .understand(text)
            .map_err(|error| Failure::new(2, format!("\"{text}\": {error:#}")))?;
    }
    voice.take();
    for text in lines {
        let is_checked = matches!(shell.understand(text)?, Line::Step(_)) && text.contains("->");
        let result = shell.line(text);
        let quits = matches!(result, Ok(Next::Quit));
        if let Err(error) = &result
            && output::is_broken_pipe(error)
        {
            return Ok(0);
        }
        let said = voice.take();
        let ended = Ended::of(result, &said, is_checked);
        if voice.is_json() {
            let answer = said.answer.map(|answer| match answer {
                ClientState::Ok => "ok",
                ClientState::Waiting => "waiting",
                ClientState::Refused => "refused",
                ClientState::Unknown => "unknown",
            });
            let object = json!({"command": text, "ok": ended.code == 0, "code": ended.code, "answer": answer,
                "said": said.sentences, "data": said.data, "error": ended.error});
            output::line(object.to_string())?;
        } else if let Some(error) = &ended.error {
            output::error(error);
        }
        if ended.code > 0 || quits {
            return Ok(ended.code);
        }
    }
    Ok(0)
}
