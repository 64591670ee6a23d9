//! What a report says is on its paper: all of it, in order, and nothing that vanishes.

use axum::http::StatusCode;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use weighbridge_casework::Report;
use weighbridge_collector::pdf::{self, ExtraFont};

use super::{Paper, paper, reading};

async fn report() -> Report {
    serde_json::from_value(paper().await.opened().await).unwrap()
}

fn text(report: &Report) -> String {
    reading::pages(&pdf::report(report, None).unwrap()).iter().map(|page| page.read.as_str()).collect()
}

fn unspaced(text: &str) -> String {
    text.split_whitespace().collect()
}

/// Every number under a key of this ending.
fn numbers(value: &Value, ending: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if key.ends_with(ending) => found.push(text.clone()),
                    value => numbers(value, ending, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| numbers(value, ending, found)),
        _ => {}
    }
}

#[tokio::test]
async fn everything_that_a_report_says_is_on_its_paper() {
    let report = report().await;
    let text = text(&report);
    for section in report.sections() {
        assert!(text.contains(&unspaced(section.title)), "{}", section.title);
        let cells = section.rows.iter().flatten().flatten();
        for said in section.paragraphs.iter().chain(cells) {
            assert!(text.contains(&unspaced(said)), "{said:?} is missing in {text}");
        }
    }
    let mut exact = Vec::new();
    numbers(&serde_json::to_value(&report.fields).unwrap(), "_tera", &mut exact);
    assert_eq!(exact.len(), 3);
    for number in exact {
        assert!(text.contains(&number), "{number} is missing in {text}");
    }
    let hash = weighbridge_collector::proof::report_hash(&serde_json::to_value(&report).unwrap());
    for page in reading::pages(&pdf::report(&report, None).unwrap()) {
        assert!(page.seen.contains(&hash) && page.seen.contains("case-0002,version1,"), "{}", page.seen);
    }
}

#[tokio::test]
async fn the_same_report_gives_the_same_bytes_over_every_way() {
    let paper: Paper = paper().await;
    paper.decided().await;
    let drafted = paper.draft().await;
    let sent = BASE64.decode(drafted["pdf"].as_str().unwrap()).unwrap();
    let report: Report = serde_json::from_value(drafted["report"].clone()).unwrap();
    assert!(sent == pdf::report(&report, None).unwrap());
    let look = json!({ "actor": "ada", "reason": "a look" });
    let kept = paper.post("/report?version=1&format=both", &look).await.json();
    assert_eq!(kept["pdf"], drafted["pdf"]);
    assert!(kept.get("proof").is_none(), "a draft of before has its proof beside it");

    let masked = paper.site.get(&paper.path("/report.pdf")).await;
    assert_eq!((masked.status, masked.header("content-type")), (StatusCode::OK, "application/pdf"));
    assert!(masked.body.starts_with("%PDF-1.7"));
    let opened = paper.post("/report?format=pdf", &look).await;
    assert_eq!((opened.status, opened.header("content-type")), (StatusCode::OK, "application/pdf"));
    let missing = paper.site.get("/api/v1/cases/case-99/report.pdf").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_character_that_no_font_has_is_written_as_its_number() {
    let mut report = report().await;
    report.header.statement = "Ωμέγα Щука naïve 中 🦀 שלום \u{202e}x".into();
    let text = text(&report);
    assert!(
        text.contains("ΩμέγαЩукаnaïve[U+4E2D][U+1F980][U+05E9][U+05DC][U+05D5][U+05DD][U+202E]x"),
        "{text}"
    );
}

#[tokio::test]
async fn a_long_report_goes_on_over_pages_with_the_headings_of_its_tables() {
    let mut report = report().await;
    let row = report.attempts[0].clone();
    report.attempts = (0..300)
        .map(|number| {
            let mut row = row.clone();
            row.attempt = format!("job-{number}.0").parse().unwrap();
            row
        })
        .collect();
    // A cell that is longer than a page, and a word that is wider than a line.
    report.remarks = vec!["w".repeat(2000)];
    report.fields[0].label = "zyzzyva ".repeat(700);
    let bytes = pdf::report(&report, None).unwrap();
    let pages = reading::pages(&bytes);
    assert!(pages.len() > 10, "{}", pages.len());
    let count = pages.len();
    for (index, page) in pages.iter().enumerate() {
        assert!(page.seen.contains(&format!("page{}of{count}", index + 1)), "{}", page.seen);
    }
    let all: String = pages.iter().map(|page| page.read.as_str()).collect();
    for number in [0, 150, 299] {
        assert!(all.contains(&format!("job-{number}.0")), "job-{number}.0");
    }
    assert_eq!(all.matches("zyzzyva").count(), 700);
    assert_eq!(all.matches("AttemptStartEndAccelerators").count(), 1, "headings are read aloud once");
    let again = pages.iter().filter(|page| page.seen.contains("AttemptStartEndAccelerators")).count();
    let listing = pages.iter().filter(|page| page.read.contains(".02026-03-02T08:00:00Z")).count();
    assert!(listing > 3 && again + 1 == listing, "{again} and one of {listing} pages have the headings");
    assert!(bytes == pdf::report(&report, None).unwrap());
}

#[test]
fn a_font_of_another_kind_is_refused() {
    assert!(ExtraFont::read(b"not a font".to_vec()).is_none());
    let shipped = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/fonts/DejaVuSans.ttf")).unwrap();
    assert!(ExtraFont::read(shipped).is_some());
}
