//! A thread for calls that may not come back, asked and heard without waiting longer than a deadline.
//!
//! Reading a file of the kernel can block for as long as the device behind it hangs. Such a thread cannot be
//! ended: it lives until its call comes back and nobody asks any more, and is never joined.

use std::{io, sync::mpsc, thread};

use tokio::{
    sync::mpsc::{self as replies, error::TryRecvError},
    time::{Instant, timeout_at},
};

/// Enough for the deepest calls; there may be sixteen of them.
const STACK_BYTES: usize = 256 * 1024;

/// A thread that answers questions, one at a time.
#[derive(Debug)]
pub(super) struct Worker<Q, A> {
    ask: mpsc::Sender<Q>,
    answers: replies::Receiver<A>,
    waiting: Waiting,
}

/// What the thread owes us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    Nothing,
    /// An answer to the last question.
    Now,
    /// An answer to an earlier one, which nobody wants any more.
    Late,
}

/// What was heard.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard<A> {
    /// The answer.
    Answer(A),
    /// Nothing yet: the call has not come back.
    Late,
    /// The thread ended.
    Died,
}

impl<Q: Send + 'static, A: Send + 'static> Worker<Q, A> {
    /// Starts a thread that answers with `answer`.
    pub(super) fn start(name: &str, mut answer: impl FnMut(Q) -> A + Send + 'static) -> io::Result<Self> {
        let (ask, questions) = mpsc::channel();
        let (reply, answers) = replies::channel(1);
        thread::Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(move || {
            while let Ok(question) = questions.recv() {
                // One question at a time, so there is room, unless nobody listens any more.
                if reply.try_send(answer(question)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { ask, answers, waiting: Waiting::Nothing })
    }

    /// Asks, unless the answer to an earlier question is still owed; one that came late is thrown away.
    pub(super) fn ask(&mut self, question: Q) {
        if self.waiting != Waiting::Nothing {
            match self.answers.try_recv() {
                Ok(_) => {}
                Err(TryRecvError::Empty) => {
                    self.waiting = Waiting::Late;
                    return;
                }
                // Hearing will say so.
                Err(TryRecvError::Disconnected) => {
                    self.waiting = Waiting::Now;
                    return;
                }
            }
        }
        // If nobody is there to hear it, the answers' channel says so.
        let _ = self.ask.send(question);
        self.waiting = Waiting::Now;
    }

    /// Hears the answer to the last question, until the deadline.
    pub(super) async fn hear(&mut self, deadline: Instant) -> Heard<A> {
        if self.waiting != Waiting::Now {
            return Heard::Late;
        }
        match timeout_at(deadline, self.answers.recv()).await {
            Ok(Some(answer)) => {
                self.waiting = Waiting::Nothing;
                Heard::Answer(answer)
            }
            Ok(None) => Heard::Died,
            Err(_) => Heard::Late,
        }
    }
}
