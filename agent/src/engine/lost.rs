//! Spans of one device whose records had to be given up.

use weighbridge_meter::{
    AcceleratorId, Gap, GapCause, Span, UtcMillis,
    meter::{Now, Observed},
};

/// Given up so far, in order of time. Empty nearly always.
#[derive(Debug, Default)]
pub(super) struct Lost(Vec<Piece>);

#[derive(Clone, Copy, Debug)]
struct Piece {
    from: Now,
    end: UtcMillis,
    cause: GapCause,
}

/// Pieces with causes of their own that are kept apart. A device that comes and goes for days must not fill
/// the memory: beyond it, pieces that meet become one with the cause `spool_full`.
const PIECES: usize = 64;

impl Lost {
    /// Gives up a record. A gap keeps its cause, a window becomes one with the cause `spool_full`.
    pub(super) fn add(&mut self, observed: &Observed) {
        let (span, boot_ms, cause) = match observed {
            Observed::Window(window) => (window.span, window.boot_start_ms, GapCause::SpoolFull),
            Observed::Gap(gap) => (gap.span, gap.boot_start_ms, gap.cause),
        };
        let full = self.0.len() >= PIECES;
        if let Some(last) = self.0.last_mut()
            && last.end == span.start()
            && (last.cause == cause || full)
        {
            if last.cause != cause {
                last.cause = GapCause::SpoolFull;
            }
            last.end = span.end();
            return;
        }
        self.0.push(Piece { from: Now { boot_ms, wall: span.start() }, end: span.end(), cause });
    }

    /// All of it as gaps, cut at whole hours like everything else.
    pub(super) fn take(&mut self, accelerator: &AcceleratorId) -> Vec<Gap> {
        let mut gaps = Vec::new();
        for piece in self.0.drain(..) {
            let mut start = piece.from.wall;
            while start < piece.end {
                let end = start.next_multiple(UtcMillis::HOUR).min(piece.end);
                let Some(span) = Span::new(start, end) else { break };
                let boot_start_ms =
                    piece.from.boot_ms.saturating_add(start.since(piece.from.wall).unsigned_abs());
                let accelerator = accelerator.clone();
                gaps.push(Gap { accelerator, span, boot_start_ms, cause: piece.cause });
                start = end;
            }
        }
        gaps
    }
}
