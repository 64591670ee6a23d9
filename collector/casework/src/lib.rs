//! What a rule says, whether it is met, and the work that follows: all of it pure.
//!
//! Start with [`pack::RulePack`]: every number that comes from a law stands in a dated file there, never in code.
//! [`finding::evaluate`] compares totals with a rule, [`case::Case`] folds what people did about a finding and
//! keeps its clocks, and [`report::Report`] says what would be sent, blanks and doubts included.
//!
//! Deliberately absent: input and output (the shipped packs are compiled in), clocks, randomness, any decision that
//! the law leaves to a person. The words are "meets the criteria of", never "must report".

pub mod amount;
pub mod arrangement;
pub mod case;
pub mod clock;
pub mod finding;
pub mod nearing;
pub mod pack;
pub mod report;

pub use amount::{Comparator, OpsPerSecond, Threshold};
pub use arrangement::{Arrangement, Reservation, Terms};
pub use case::{Case, CaseError, CaseEvent, Decision, State, Step};
pub use clock::{ClockReading, ClockStart, Zone};
pub use finding::{
    CappedBy, Certainty, Declaration, Facts, Finding, Met, Projection, Scope, Standing, Subject, Totals,
    Unknown, Verdict, evaluate, evaluate_reserved,
};
pub use nearing::Passing;
pub use pack::{PackError, Rule, RulePack, shipped};
pub use report::{Report, ReportError, ReportInput};
