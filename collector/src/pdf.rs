//! A report on paper: the same sections as its page, as a PDF that needs nothing else.
//!
//! Of the same report the same bytes come out: there is no time and no chance in it but what the report says. The text
//! is tagged, so that it reads aloud and copies out in its order. The shipped font has Latin, Greek and Cyrillic; an
//! operator can name a further one. A character that no font has is written as its number, `[U+4E2D]`, and so is one
//! that is written from right to left or joined, which this does not lay out: it never vanishes and never misleads.
//!
//! Deliberately absent: shaping, pictures, and signatures. What proves a report is beside it, in its proof.

use std::sync::Arc;

use weighbridge_casework::Report;

use crate::proof::report_hash;

mod file;
mod fonts;
mod layout;

use fonts::Fonts;
use layout::Layout;

/// DejaVu Sans; its licence is beside it.
const FONT: &[u8] = include_bytes!("../fonts/DejaVuSans.ttf");

/// A font for what the shipped one lacks.
#[derive(Clone)]
pub struct ExtraFont(Arc<Vec<u8>>);

impl std::fmt::Debug for ExtraFont {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ExtraFont({} bytes)", self.0.len())
    }
}

impl ExtraFont {
    /// What the file must be, in words for an error message.
    pub const EXPECTED: &'static str = "a TrueType font with outlines in a glyf table, alone in its file";

    /// From the bytes of a file; `None` where it is not [`ExtraFont::EXPECTED`].
    pub fn read(bytes: Vec<u8>) -> Option<Self> {
        let usable = ttf_parser::Face::parse(&bytes, 0).is_ok_and(|face| face.tables().glyf.is_some());
        usable.then(|| Self(Arc::new(bytes)))
    }
}

/// A report cannot be put on paper.
#[derive(Debug, thiserror::Error)]
pub enum PdfError {
    /// A font does not read.
    #[error("font {font} does not read as {}", ExtraFont::EXPECTED)]
    Font {
        /// Which, from 0: the shipped one.
        font: usize,
    },
    /// What is used of a font cannot be taken out of it.
    #[error("what is used of font {font} cannot be taken out of it: {problem}")]
    Subset {
        /// Which, from 0: the shipped one.
        font: usize,
        /// Why.
        problem: String,
    },
}

/// The report as a PDF.
///
/// # Errors
/// [`PdfError`], where a font cannot be used.
pub fn report(report: &Report, extra: Option<&ExtraFont>) -> Result<Vec<u8>, PdfError> {
    let hash = report_hash(&serde_json::to_value(report).unwrap_or_default());
    let fonts = Fonts::of([FONT].into_iter().chain(extra.map(|extra| extra.0.as_slice())))?;
    let mut layout = Layout::new(fonts);
    let title = format!("Report on {}, version {}", report.case, report.version);
    layout.title(&title);
    for section in report.sections() {
        layout.heading(section.title);
        for paragraph in &section.paragraphs {
            layout.paragraph(paragraph);
        }
        if !section.rows.is_empty() {
            layout.table(&section.columns, &section.rows);
        }
    }
    layout.footers(&format!("{}, version {}, report SHA-256 {hash}", report.case, report.version));
    file::write(layout, &title, &hash)
}
