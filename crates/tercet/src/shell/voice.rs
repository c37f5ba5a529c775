//! What the shell says: to the terminal, or kept for one JSON object per command. What happens is also
//! noted in a trace, which `export` draws.

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::Value;
use tercet_lab::ast::ClientState;
use tercet_lab::{Progress, is_worth_telling};

use crate::commands::Trace;
use crate::output;

/// Where sentences go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// To standard output.
    Print,
    /// They are kept until they are taken.
    Keep,
    /// Nowhere: what is done again was told before.
    Silent,
}

/// What was said since it was taken last.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) sentences: Vec<String>,
    pub(crate) data: Option<Value>,
    /// The worst that a client was told.
    pub(crate) answer: Option<ClientState>,
}

#[derive(Debug)]
struct Heard {
    mode: Mode,
    json: bool,
    said: Said,
    trace: Trace,
    /// The event that was said last.
    event: String,
}

/// One voice, shared by a shell and by what runs its lines.
#[derive(Clone, Debug)]
pub(crate) struct Voice(Rc<RefCell<Heard>>);

impl Voice {
    pub(crate) fn new(mode: Mode, json: bool) -> Self {
        Self(Rc::new(RefCell::new(Heard {
            mode,
            json,
            said: Said::default(),
            trace: Trace::default(),
            event: String::new(),
        })))
    }

    /// Says a sentence.
    pub(crate) fn say(&self, text: impl Into<String>) -> anyhow::Result<()> {
        let mut heard = self.0.borrow_mut();
        match heard.mode {
            Mode::Print => output::line(text.into())?,
            Mode::Keep => heard.said.sentences.push(text.into()),
            Mode::Silent => {}
        }
        Ok(())
    }

    /// Says something as JSON.
    pub(crate) fn data(&self, value: Value) -> anyhow::Result<()> {
        let mut heard = self.0.borrow_mut();
        match heard.mode {
            Mode::Print => output::line(value.to_string())?,
            Mode::Keep => heard.said.data = Some(value),
            Mode::Silent => {}
        }
        Ok(())
    }

    /// Notes what happens, and says what a person wants to hear of it.
    pub(crate) fn tell(&self, progress: &Progress) {
        self.0.borrow_mut().trace.note(progress);
        let text = match progress {
            Progress::Event(event) if is_worth_telling(event) => {
                let text = format!("  {} {}", event.node, event.text);
                let last = &mut self.0.borrow_mut().event;
                if *last == text {
                    // A node that tries in vain says so once.
                    return;
                }
                last.clone_from(&text);
                text
            }
            Progress::Step { .. } => {
                self.0.borrow_mut().event.clear();
                return;
            }
            Progress::Event(_) | Progress::Begin { .. } | Progress::Ask { .. } => return,
            Progress::Say(text) => format!("  “{text}”"),
            Progress::Told(text) => text.clone(),
            Progress::Answered { value, text, state } => {
                let known = &mut self.0.borrow_mut().said.answer;
                if known.is_none_or(|known| rank(*state) > rank(known)) {
                    *known = Some(*state);
                }
                format!("{value}: {text}")
            }
        };
        // Whoever looks away stops nothing.
        let _ = self.say(text);
    }

    /// [`Self::tell`] as a runner wants it.
    pub(crate) fn teller(&self) -> impl FnMut(Progress) + 'static {
        let voice = self.clone();
        move |progress| voice.tell(&progress)
    }

    /// What was said since the last call.
    pub(crate) fn take(&self) -> Said {
        std::mem::take(&mut self.0.borrow_mut().said)
    }

    /// Whether facts are said as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.0.borrow().json
    }

    pub(crate) fn set_json(&self, json: bool) {
        self.0.borrow_mut().json = json;
    }

    /// Does something without a word, from an empty trace on.
    pub(crate) fn anew<T>(&self, act: impl FnOnce() -> T) -> T {
        let before = {
            let mut heard = self.0.borrow_mut();
            heard.trace = Trace::default();
            std::mem::replace(&mut heard.mode, Mode::Silent)
        };
        let done = act();
        let mut heard = self.0.borrow_mut();
        heard.mode = before;
        heard.said = Said::default();
        done
    }

    /// All that happened.
    pub(crate) fn with_trace<T>(&self, look: impl FnOnce(&Trace) -> T) -> T {
        look(&self.0.borrow().trace)
    }
}

const fn rank(state: ClientState) -> u8 {
    match state {
        ClientState::Ok => 0,
        ClientState::Waiting => 1,
        ClientState::Refused => 2,
        ClientState::Unknown => 3,
    }
}
