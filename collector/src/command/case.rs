//! `case`: what people do about cases, on the command line.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use weighbridge_casework::ClockReading;
use weighbridge_meter::UtcMillis;

use super::{Access, Failure, access, escaped, say, write_reports};
use crate::{
    api::cases,
    app::App,
    casesteps::{Asked, StepError},
    config::Config,
    pages,
    proof::Content,
};

/// Cases: which there are, where one stands, and what was done about it.
#[derive(Debug, Subcommand)]
pub(crate) enum Cases {
    /// Lists cases, the clock that runs out first on top.
    Ls,
    /// Shows one with its clocks and its history.
    Show {
        /// Its id, such as case-0001.
        case: String,
    },
    /// Says that somebody looked at it.
    Seen(Who),
    /// Says what was decided.
    Decide {
        #[command(flatten)]
        who: Who,
        /// What.
        decision: Decision,
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// Makes the next draft of its report: the files that `report` writes, and their hash in the ledger.
    Draft {
        #[command(flatten)]
        who: Who,
        /// Why the identity is opened.
        #[arg(long)]
        reason: String,
        /// Folder for the files.
        #[arg(long, default_value = ".", value_name = "DIR")]
        out: PathBuf,
        /// Put the batches into the proof, as `report` does.
        #[arg(long)]
        with_batches: bool,
    },
    /// Says that the first report was sent.
    File(Sent),
    /// Says that the authority asked a further question.
    Ask {
        #[command(flatten)]
        who: Who,
        /// What it asked.
        #[arg(long)]
        question: String,
        /// When that arrived, such as 2026-01-31T08:00:00Z; now, if it is not said.
        #[arg(long, value_name = "TIME")]
        received: Option<UtcMillis>,
    },
    /// Says that every further question is answered.
    Answered(Who),
    /// Says that what was sent was found wrong or out of date.
    Wrong {
        #[command(flatten)]
        who: Who,
        /// What is wrong.
        #[arg(long)]
        what: String,
        /// When that was found; now, if it is not said.
        #[arg(long, value_name = "TIME")]
        found: Option<UtcMillis>,
    },
    /// Says that what was thought wrong is not.
    NotWrong(WithReason),
    /// Says that a later report was sent in place of the one before.
    Correct(Sent),
    /// Says that nothing is left to do.
    Close(WithReason),
    /// Takes it up again.
    Reopen(WithReason),
}

/// Of which case, and who says so.
#[derive(Debug, Args)]
pub(crate) struct Who {
    /// Id of the case, such as case-0001.
    case: String,
    /// Who does it; recorded in the ledger.
    #[arg(long, env = "USER")]
    actor: String,
}

/// The same with a reason.
#[derive(Debug, Args)]
pub(crate) struct WithReason {
    #[command(flatten)]
    who: Who,
    /// Why.
    #[arg(long)]
    reason: String,
}

/// A report that was sent.
#[derive(Debug, Args)]
pub(crate) struct Sent {
    #[command(flatten)]
    who: Who,
    /// Which draft.
    #[arg(long)]
    version: u32,
    /// What the authority calls it.
    #[arg(long)]
    reference: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Decision {
    /// A report is to be made.
    Reportable,
    /// No report is to be made.
    NotReportable,
    /// More has to be known first; clocks go on.
    MoreInformationNeeded,
}

impl Cases {
    pub(crate) async fn run(self, config: &Config) -> Result<(), Failure> {
        let (who, step) = match self {
            Self::Ls => return ls(config).await,
            Self::Show { case } => return show(&get(config, &case).await?),
            Self::Draft { who, reason, out, with_batches } => {
                let content = if with_batches { Content::Batches } else { Content::Leaves };
                let (json, html, proof) = draft(config, &who, &reason, content).await?;
                return write_reports(&out, &who.case, &json, &html, &proof);
            }
            Self::Seen(who) => (who, json!({ "kind": "seen" })),
            Self::Decide { who, decision, reason } => {
                let decision = match decision {
                    Decision::Reportable => "reportable",
                    Decision::NotReportable => "not_reportable",
                    Decision::MoreInformationNeeded => "more_information_needed",
                };
                (who, json!({ "kind": "decided", "decision": decision, "reason": reason }))
            }
            Self::File(Sent { who, version, reference }) => {
                (who, json!({ "kind": "filed", "version": version, "reference": reference }))
            }
            Self::Ask { who, question, received } => {
                (who, json!({ "kind": "follow_up_requested", "question": question, "received_at": received }))
            }
            Self::Answered(who) => (who, json!({ "kind": "follow_up_answered" })),
            Self::Wrong { who, what, found } => {
                (who, json!({ "kind": "error_found", "what": what, "found_at": found }))
            }
            Self::NotWrong(WithReason { who, reason }) => {
                (who, json!({ "kind": "error_dismissed", "reason": reason }))
            }
            Self::Correct(Sent { who, version, reference }) => {
                (who, json!({ "kind": "corrected", "version": version, "reference": reference }))
            }
            Self::Close(WithReason { who, reason }) => (who, json!({ "kind": "closed", "reason": reason })),
            Self::Reopen(WithReason { who, reason }) => {
                (who, json!({ "kind": "reopened", "reason": reason }))
            }
        };
        show(&take(config, &who, step).await?)
    }
}

/// Takes a step and answers with the case after it.
async fn take(config: &Config, who: &Who, step: Value) -> Result<Value, Failure> {
    match access(config).await? {
        Access::Here(app) => {
            let asked: Asked = serde_json::from_value(step).map_err(|error| Failure::missing(&error))?;
            app.case_step(&who.case, asked, &who.actor).await.map_err(of_step)?;
            let case = detail(&app, &who.case).await;
            app.store.close().await;
            case
        }
        Access::Running(remote) => {
            let body = json!({ "actor": who.actor, "step": step }).to_string().into_bytes();
            let path = format!("/api/v1/cases/{}/steps", escaped(&who.case));
            let answer = remote.post(&path, &[], "application/json", body).await?;
            serde_json::from_str(&answer).map_err(|error| Failure::missing(&error))
        }
    }
}

/// The report as JSON, as a page, and its proof.
async fn draft(
    config: &Config,
    who: &Who,
    reason: &str,
    content: Content,
) -> Result<(Value, String, Value), Failure> {
    match access(config).await? {
        Access::Here(app) => {
            let drafted = app.case_draft(&who.case, &who.actor, reason, content).await;
            let (report, proof) = drafted.map_err(of_step)?;
            let json = serde_json::to_value(&report).map_err(|error| Failure::missing(&error))?;
            let proof = serde_json::to_value(&proof).map_err(|error| Failure::missing(&error))?;
            app.store.close().await;
            Ok((json, pages::report_document(&report), proof))
        }
        Access::Running(remote) => {
            let content = match content {
                Content::Leaves => "leaves",
                Content::Batches => "batches",
            };
            let body = json!({ "actor": who.actor, "reason": reason, "proof": content });
            let path = format!("/api/v1/cases/{}/draft", escaped(&who.case));
            let answer = remote.post(&path, &[], "application/json", body.to_string().into_bytes()).await?;
            let mut answer: Value =
                serde_json::from_str(&answer).map_err(|error| Failure::missing(&error))?;
            let html = answer["html"].as_str().unwrap_or_default().to_owned();
            Ok((answer["report"].take(), html, answer["proof"].take()))
        }
    }
}

async fn get(config: &Config, case: &str) -> Result<Value, Failure> {
    match access(config).await? {
        Access::Here(app) => {
            let found = detail(&app, case).await;
            app.store.close().await;
            found
        }
        Access::Running(remote) => {
            let answer = remote.get(&format!("/api/v1/cases/{}", escaped(case))).await?;
            serde_json::from_str(&answer).map_err(|error| Failure::missing(&error))
        }
    }
}

async fn detail(app: &App, case: &str) -> Result<Value, Failure> {
    let view = app.view().await.map_err(|error| Failure::missing(&error))?;
    let found =
        cases::case(app, &view, case).ok_or_else(|| Failure::check(format!("there is no case {case:?}")))?;
    serde_json::to_value(found).map_err(|error| Failure::missing(&error))
}

async fn ls(config: &Config) -> Result<(), Failure> {
    let all = match access(config).await? {
        Access::Here(app) => {
            let view = app.view().await.map_err(|error| Failure::missing(&error))?;
            let all = json!({ "cases": cases::cases(&app, &view) });
            app.store.close().await;
            all
        }
        Access::Running(remote) => {
            let answer = remote.get("/api/v1/cases").await?;
            serde_json::from_str(&answer).map_err(|error| Failure::missing(&error))?
        }
    };
    let all = all["cases"].as_array().cloned().unwrap_or_default();
    if all.is_empty() {
        say("no cases");
    }
    for case in &all {
        let running = clocks(case).into_iter().filter(|clock| clock.stopped_at.is_none());
        let next = running.min_by_key(|clock| clock.due);
        let due = next.map_or(String::new(), |clock| {
            let late = if clock.overdue { "overdue since" } else { "due" };
            format!("; {}, {late} {}", clock.label, clock.due_local)
        });
        say(format_args!(
            "{}  {}  {}{due}",
            text(&case["id"]),
            text(&case["state_in_words"]),
            text(&case["statement"])
        ));
    }
    Ok(())
}

fn show(case: &Value) -> Result<(), Failure> {
    say(format_args!("{}: {}", text(&case["id"]), text(&case["statement"])));
    say(format_args!("state: {}", text(&case["state_in_words"])));
    for clock in clocks(case) {
        let how = match (clock.stopped_at, clock.overdue) {
            (Some(_), false) => "done in time",
            (Some(_), true) => "done late",
            (None, false) => "runs",
            (None, true) => "overdue",
        };
        say(format_args!("clock: {}, due {}: {how}", clock.label, clock.due_local));
    }
    for event in case["history"].as_array().into_iter().flatten() {
        let kind = text(&event["step"]["kind"]).replace('_', " ");
        say(format_args!("{}  {kind} by {}", text(&event["at"]), text(&event["by"])));
    }
    Ok(())
}

fn clocks(case: &Value) -> Vec<ClockReading> {
    serde_json::from_value(case["clocks"].clone()).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn of_step(error: StepError) -> Failure {
    match error {
        StepError::Commit(error) => Failure::missing(&error),
        error => Failure::check(weighbridge_store::verify::chain_of(&error)),
    }
}
