//! For tests: fails at the n-th step on the disk, in the thread that asks for it.

use std::{cell::RefCell, io};

/// What happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The step is not done, and says so.
    Refused,
    /// The step is not done, and none after it: as if the machine had stopped.
    StoppedBefore,
    /// The step is done, and none after it.
    StoppedAfter,
}

impl Fault {
    pub(super) const ALL: [Self; 3] = [Self::Refused, Self::StoppedBefore, Self::StoppedAfter];
}

#[derive(Debug, Default)]
struct State {
    planned: Option<(usize, Fault)>,
    stopped: bool,
    names: Vec<&'static str>,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

/// Runs something of which the n-th step, counted from 0, fails. Tells what came of it and the names of the steps.
pub(super) fn at<T>(planned: Option<(usize, Fault)>, run: impl FnOnce() -> T) -> (T, Vec<&'static str>) {
    STATE.with_borrow_mut(|state| *state = State { planned, ..State::default() });
    let done = run();
    let state = STATE.take();
    (done, state.names)
}

fn refused(name: &str) -> io::Error {
    io::Error::other(format!("the test fails {name}"))
}

pub(super) fn before(name: &'static str) -> io::Result<()> {
    STATE.with_borrow_mut(|state| {
        if state.stopped {
            return Err(refused(name));
        }
        let number = state.names.len();
        state.names.push(name);
        match state.planned {
            Some((at, Fault::Refused)) if at == number => Err(refused(name)),
            Some((at, Fault::StoppedBefore)) if at == number => {
                state.stopped = true;
                Err(refused(name))
            }
            _ => Ok(()),
        }
    })
}

pub(super) fn after(name: &'static str) -> io::Result<()> {
    STATE.with_borrow_mut(|state| match state.planned {
        Some((at, Fault::StoppedAfter)) if at + 1 == state.names.len() && !state.stopped => {
            state.stopped = true;
            Err(refused(name))
        }
        _ => Ok(()),
    })
}
