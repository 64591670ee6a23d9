//! `case`: what people do about cases, on the command line.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use weighbridge_casework::{ClockReading, report::Changes};
use weighbridge_meter::UtcMillis;

use super::{Access, Failure, access, escaped, say, write_reports};
use crate::{
    api::cases,
    app::App,
    casefile::CasefileError,
    casesteps::{Asked, StepError},
    config::Config,
    pages,
    parties::By,
    proof::Content,
    questionnaire::read_answers,
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
    /// Prints what only the customers of a case can say and have not said yet.
    Questionnaire {
        /// Id of the case, such as case-0001.
        case: String,
        /// As a file to fill in, for programs, or as a page to print.
        #[arg(long, default_value = "csv")]
        format: Form,
    },
    /// Records what customers answered, from a filled-in questionnaire in CSV or JSON. All answers or none.
    Answers {
        #[command(flatten)]
        who: Who,
        /// The file.
        file: PathBuf,
    },
    /// Shows what one draft says other than an earlier one. Both name their customers: the look is recorded.
    Diff {
        #[command(flatten)]
        who: Who,
        /// The earlier version.
        from: u32,
        /// The later version.
        to: u32,
        /// Why the identity is opened.
        #[arg(long)]
        reason: String,
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

/// How questions are printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Form {
    /// To fill in and record with `case answers`.
    Csv,
    /// For programs.
    Json,
    /// To print.
    Html,
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
                let forms = draft(config, &who, &reason, content).await?;
                return write_reports(&out, &who.case, &forms);
            }
            Self::Questionnaire { case, format } => return questionnaire(config, &case, format).await,
            Self::Answers { who, file } => return answers(config, &who, &file).await,
            Self::Diff { who, from, to, reason } => return diff(config, &who, (from, to), reason).await,
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

/// The report in all its forms, with its proof.
async fn draft(config: &Config, who: &Who, reason: &str, content: Content) -> Result<Value, Failure> {
    match access(config).await? {
        Access::Here(app) => {
            let drafted = app.case_draft(&who.case, &who.actor, reason, content).await;
            let (report, proof) = drafted.map_err(of_step)?;
            let forms = cases::all_forms(&app, &report, Some(&proof)).map_err(of_casefile)?;
            app.store.close().await;
            Ok(forms)
        }
        Access::Running(remote) => {
            let content = match content {
                Content::Leaves => "leaves",
                Content::Batches => "batches",
            };
            let body = json!({ "actor": who.actor, "reason": reason, "proof": content });
            let path = format!("/api/v1/cases/{}/draft", escaped(&who.case));
            let answer = remote.post(&path, &[], "application/json", body.to_string().into_bytes()).await?;
            serde_json::from_str(&answer).map_err(|error| Failure::missing(&error))
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
    let found = cases::case(app, &view, case).await.map_err(|error| Failure::missing(&error))?;
    let found = found.ok_or_else(|| Failure::check(format!("there is no case {case:?}")))?;
    serde_json::to_value(found).map_err(|error| Failure::missing(&error))
}

async fn questionnaire(config: &Config, case: &str, format: Form) -> Result<(), Failure> {
    let text = match access(config).await? {
        Access::Here(app) => {
            let asked = app.questionnaire(case).map_err(of_casefile)?;
            app.store.close().await;
            match format {
                Form::Csv => asked.to_csv(),
                Form::Json => {
                    serde_json::to_string_pretty(&asked).map_err(|error| Failure::missing(&error))?
                }
                Form::Html => pages::questionnaire_document(&asked),
            }
        }
        Access::Running(remote) => {
            let format = match format {
                Form::Csv => "csv",
                Form::Json => "json",
                Form::Html => "html",
            };
            remote.get(&format!("/api/v1/cases/{}/questionnaire?format={format}", escaped(case))).await?
        }
    };
    say(text.trim_end());
    Ok(())
}

async fn answers(config: &Config, who: &Who, file: &Path) -> Result<(), Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    let rows = read_answers(&text).map_err(|faults| {
        let faults: Vec<String> = faults.iter().map(|fault| format!("{}: {fault}", file.display())).collect();
        Failure::check(faults.join("\n"))
    })?;
    let told: Value = match access(config).await? {
        Access::Here(app) => {
            let told = app.put_answers(&who.case, rows, &who.actor).await.map_err(of_casefile)?;
            app.store.close().await;
            json!(told)
        }
        Access::Running(remote) => {
            let body = json!({ "actor": who.actor, "answers": rows }).to_string().into_bytes();
            let path = format!("/api/v1/cases/{}/answers", escaped(&who.case));
            let answer = remote.post(&path, &[], "application/json", body).await?;
            serde_json::from_str(&answer).map_err(|error| Failure::missing(&error))?
        }
    };
    say(format_args!("{} rows, {} recorded", told["rows"], told["recorded"]));
    Ok(())
}

async fn diff(config: &Config, who: &Who, (from, to): (u32, u32), reason: String) -> Result<(), Failure> {
    let changes: Changes = match access(config).await? {
        Access::Here(app) => {
            let by = By { actor: who.actor.clone(), reason };
            let changes = app.changes(&who.case, from, to, &by).await.map_err(of_casefile)?;
            app.store.close().await;
            changes
        }
        Access::Running(remote) => {
            let body = json!({ "from": from, "to": to, "actor": who.actor, "reason": reason });
            let path = format!("/api/v1/cases/{}/diff", escaped(&who.case));
            let answer = remote.post(&path, &[], "application/json", body.to_string().into_bytes()).await?;
            serde_json::from_str(&answer).map_err(|error| Failure::missing(&error))?
        }
    };
    let section = changes.section();
    for paragraph in &section.paragraphs {
        say(paragraph);
    }
    for change in &changes.changes {
        say(&change.what);
        for (sign, lines) in [("-", &change.before), ("+", &change.after)] {
            for line in lines {
                say(format_args!("  {sign} {line}"));
            }
        }
    }
    Ok(())
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

fn of_casefile(error: CasefileError) -> Failure {
    match error {
        CasefileError::Commit(error) => Failure::missing(&error),
        error => Failure::check(weighbridge_store::verify::chain_of(&error)),
    }
}
