//! A report as headings, sentences and tables: what a page needs, without markup.

use super::{Changes, Report, accelerator_hours};

/// A part of a report under a heading. All text is plain: whoever renders it escapes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The heading.
    pub title: &'static str,
    /// Sentences before the table.
    pub paragraphs: Vec<String>,
    /// Headings of the table; empty if there is none.
    pub columns: Vec<&'static str>,
    /// Rows of the table, as many cells as there are columns; a cell holds lines.
    pub rows: Vec<Vec<Vec<String>>>,
}

impl Report {
    /// The whole report in reading order.
    pub fn sections(&self) -> Vec<Section> {
        let mut sections = vec![self.summary()];
        sections.extend(self.remark_section());
        sections.extend(self.change_section());
        sections.extend([self.field_section(), self.doubt(), self.attempt_section(), self.time_section()]);
        sections.extend(self.clock_section());
        sections
    }

    fn summary(&self) -> Section {
        let header = &self.header;
        let mut paragraphs = vec![format!("{}.", header.statement), header.status_in_words.clone()];
        if let Some(line) = &header.line {
            paragraphs.push(match header.line_is_operators {
                true => {
                    format!("The line: {line} operations, a default of the operator that is not in the text.")
                }
                false => format!("The line: {line} operations."),
            });
        }
        paragraphs.push(format!("The rule is addressed to {}.", header.duty_on));
        paragraphs.push(header.caution.clone());
        let mut rows = vec![
            pair("Case", &self.case),
            pair("Report", &format!("version {}, {}", self.version, self.kind.as_str())),
        ];
        if let Some(earlier) = self.supersedes {
            rows.push(pair("Supersedes", &format!("version {earlier}")));
        }
        rows.push(pair("Written at", &self.written_at.to_string()));
        rows.push(pair("Instrument", &header.citation));
        rows.push(pair("Rule", &format!("{}@{} {}", header.pack, header.pack_version, header.rule)));
        Section { title: "Summary", paragraphs, columns: vec!["", ""], rows }
    }

    fn field_section(&self) -> Section {
        let blanks = self.blanks().count();
        let rows = self.fields.iter().map(|field| {
            let mut provenance = vec![field.provenance.clone()];
            provenance.extend(field.certainty.map(|certainty| certainty.to_string()));
            vec![
                vec![field.id.clone()],
                vec![field.label.clone()],
                field.value.as_ref().map_or_else(|| vec!["blank".to_owned()], super::FieldValue::lines),
                provenance,
                vec![field.citation.clone(), field.confidence.as_str().to_owned()],
            ]
        });
        Section {
            title: "Fields",
            paragraphs: vec![
                match blanks {
                    0 => format!("None of the {} fields is blank.", self.fields.len()),
                    _ => format!(
                        "{blanks} of {} fields are blank. A blank is not a no: beside each stands why it is blank.",
                        self.fields.len()
                    ),
                },
                "What a customer says is shown as its word and was not verified; what was measured says how sure it is."
                    .to_owned(),
            ],
            columns: vec!["Field", "Asked for", "Value", "Comes from", "Asked for in"],
            rows: rows.collect(),
        }
    }

    fn remark_section(&self) -> Option<Section> {
        (!self.remarks.is_empty()).then(|| Section {
            title: "To be noticed",
            paragraphs: self.remarks.clone(),
            columns: Vec::new(),
            rows: Vec::new(),
        })
    }

    fn change_section(&self) -> Option<Section> {
        self.changes.as_ref().map(Changes::section)
    }

    fn clock_section(&self) -> Option<Section> {
        let rows = self.clocks.iter().map(|clock| {
            let stands = match (clock.stopped_at, clock.overdue) {
                (Some(at), false) => format!("done in time, {at}"),
                (Some(at), true) => format!("done late, {at}"),
                (None, false) => "runs".to_owned(),
                (None, true) => "overdue".to_owned(),
            };
            vec![
                vec![clock.label.clone()],
                vec![clock.started_at.to_string()],
                vec![clock.due_local.clone()],
                vec![stands],
                vec![clock.citation.clone(), clock.confidence.as_str().to_owned()],
            ]
        });
        (!self.clocks.is_empty()).then(|| Section {
            title: "Clocks",
            paragraphs: vec![format!("As of {}.", self.written_at)],
            columns: vec!["Clock", "Started", "Due", "Stands", "From"],
            rows: rows.collect(),
        })
    }

    fn attempt_section(&self) -> Section {
        let rows = self.attempts.iter().map(|row| {
            [
                row.attempt.to_string(),
                row.start.to_string(),
                row.end.to_string(),
                row.accelerators.to_string(),
                row.operations.low.clone(),
                row.operations.best.clone(),
                row.operations.high.clone(),
            ]
            .map(|cell| vec![cell])
            .into()
        });
        Section {
            title: "Attempts",
            paragraphs: Vec::new(),
            columns: vec!["Attempt", "Start", "End", "Accelerators", "Low", "Best", "High"],
            rows: rows.collect(),
        }
    }

    fn time_section(&self) -> Section {
        let (coverage, attribution) = (&self.coverage, &self.attribution);
        let hours = |label: &str, ms: u64| pair(label, &accelerator_hours(ms));
        let mut rows =
            vec![hours("measured", coverage.measured_ms), hours("interpolated", coverage.interpolated_ms)];
        rows.extend(coverage.gap_ms.iter().map(|(cause, ms)| hours(&format!("gap: {cause}"), *ms)));
        rows.extend([
            hours("not present", coverage.not_present_ms),
            hours("one holder", attribution.attributed_ms),
            hours("shared by several holders", attribution.shared_ms),
            hours("held and idle", attribution.idle_held_ms),
            hours("disputed", attribution.disputed_ms),
        ]);
        Section {
            title: "Accelerator time",
            paragraphs: Vec::new(),
            columns: vec!["State", "Accelerator-hours"],
            rows,
        }
    }

    fn doubt(&self) -> Section {
        Section {
            title: "Method and doubt",
            paragraphs: self.method_and_doubt.clone(),
            columns: Vec::new(),
            rows: Vec::new(),
        }
    }
}

impl Changes {
    /// The same as a table of both sides.
    pub fn section(&self) -> Section {
        let side =
            |lines: &[String]| if lines.is_empty() { vec!["not there".to_owned()] } else { lines.to_vec() };
        let rows = self
            .changes
            .iter()
            .map(|change| vec![vec![change.what.clone()], side(&change.before), side(&change.after)]);
        Section {
            title: "What changed",
            paragraphs: vec![match self.changes.len() {
                0 => format!("Nothing is other than in version {}.", self.since),
                1 => format!("One thing is other than in version {}.", self.since),
                many => format!("{many} things are other than in version {}.", self.since),
            }],
            columns: vec!["What", "Before", "Now"],
            rows: rows.collect(),
        }
    }
}

fn pair(label: &str, value: &str) -> Vec<Vec<String>> {
    vec![vec![label.to_owned()], vec![value.to_owned()]]
}
