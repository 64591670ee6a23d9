//! A report as headings, sentences and tables: what a page needs, without markup.

use super::{Report, accelerator_hours};

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
        vec![self.summary(), self.field_section(), self.attempt_section(), self.time_section(), self.doubt()]
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
            paragraphs: vec![format!("{blanks} of {} fields are blank.", self.fields.len())],
            columns: vec!["Field", "Asked for", "Value", "Comes from", "Asked for in"],
            rows: rows.collect(),
        }
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

fn pair(label: &str, value: &str) -> Vec<Vec<String>> {
    vec![vec![label.to_owned()], vec![value.to_owned()]]
}
