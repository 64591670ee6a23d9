//! Pages through the router: what they show, what they never show, and under which headers.

#[expect(dead_code, reason = "shared with other test files")]
mod common;

use axum::http::StatusCode;
use common::{IDENTITY, Site};

const PAGES: [&str; 16] = [
    "/",
    "/fleet",
    "/host?name=gpu-1",
    "/accelerators/GPU-1",
    "/customers",
    "/customers/C-1",
    "/customers/C-2",
    "/groups/G-1",
    "/principals/lease%3Asite%2Ftwo",
    "/runs",
    "/runs/L-1",
    "/runs/L-2",
    "/cases",
    "/cases/case-0001",
    "/cases/case-0001/report",
    "/rules",
];

async fn with_a_case() -> Site {
    let site = Site::with_an_hour().await;
    site.app.judge().await.expect("judges");
    site
}

#[tokio::test]
async fn every_page_says_as_of_when_and_leads_to_its_json() {
    let site = with_a_case().await;
    for path in PAGES {
        let page = site.get(path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}: {}", page.body);
        assert!(page.body.contains("2026-03-02 09:01 UTC"), "{path} has no time");
        let start = page.body.find("· <a href=\"").unwrap_or_else(|| panic!("{path} has no JSON"))
            + "· <a href=\"".len();
        let json = page.body[start..].split('"').next().expect("split gives one").replace("&amp;", "&");
        let answer = site.get(&json).await;
        assert_eq!(answer.status, StatusCode::OK, "{path} leads to {json}");
        assert!(answer.json().is_object());
    }
}

#[tokio::test]
async fn every_link_on_a_page_leads_somewhere() {
    let site = with_a_case().await;
    for path in PAGES {
        let body = site.get(path).await.body;
        for link in body.split("href=\"").skip(1) {
            let link = link.split('"').next().expect("split gives one").replace("&amp;", "&");
            let target = link.split('#').next().expect("split gives one");
            if target.is_empty() {
                continue;
            }
            assert!(target.starts_with('/'), "{path} leads out to {link}");
            let answer = site.get(target).await;
            assert_eq!(answer.status, StatusCode::OK, "{path} leads to {link}: {}", answer.body);
        }
    }
}

#[tokio::test]
async fn nobody_is_named_on_any_page_nor_in_any_answer() {
    let site = with_a_case().await;
    let api = [
        "/api/v1/status",
        "/api/v1/fleet",
        "/api/v1/usage",
        "/api/v1/customers",
        "/api/v1/customers/C-1",
        "/api/v1/customers/C-1/hours",
        "/api/v1/groups",
        "/api/v1/runs",
        "/api/v1/findings",
        "/api/v1/cases",
        "/api/v1/cases/case-0001",
        "/api/v1/cases/case-0001/report",
        "/api/v1/cases/case-0001/report?format=both",
        "/api/v1/integrity",
        "/api/v1/packs",
        "/metrics",
    ];
    for path in PAGES.iter().chain(&api) {
        let answer = site.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        for value in IDENTITY {
            assert!(!answer.body.contains(value), "{path} shows {value}");
        }
        assert!(!answer.body.contains("v1:"), "{path} shows sealed values");
    }
}

#[tokio::test]
async fn a_browser_may_only_show_what_comes_from_here() {
    let site = with_a_case().await;
    for path in PAGES.iter().chain(&["/nothing", "/api/v1/status", "/style.css"]) {
        let answer = site.get(path).await;
        let policy = answer.header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'; style-src 'self'") && !policy.contains("unsafe"),
            "{path}"
        );
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        // A page that breaks its own policy would be shown without its style.
        for forbidden in ["<script", " style=", "<style", " onclick", "http://", "https://", "<img", "<form"]
        {
            assert!(!answer.body.contains(forbidden) || *path == "/style.css", "{path} holds {forbidden}");
        }
        let kept = if *path == "/style.css" { "max-age=300" } else { "no-store" };
        assert_eq!(answer.header("cache-control"), kept, "{path}");
    }
}

#[tokio::test]
async fn a_customer_page_shows_bound_calibrated_and_the_exact_number() {
    let site = with_a_case().await;
    let page = site.get("/customers/C-1").await.body;
    for shown in [
        "Low bound",
        "Calibrated, 5–95 %",
        "title=\"exactly 1978840 teraoperations\"",
        ">1.98e18<",
        "more than 1e16",
        "G-1",
        "lease:site/one",
        "Every field is known",
    ] {
        assert!(page.contains(shown), "{shown} is missing in {page}");
    }
    assert!(site.get("/customers/C-2").await.body.contains("7 of 8 fields are blank"));
}

#[tokio::test]
async fn today_shows_the_clock_first_and_then_what_is_not_known() {
    let site = with_a_case().await;
    site.sets(61 + 30);
    let page = site.get("/").await.body;
    let place = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text} is missing in {page}"));
    // An hour of the fifteen days is lost to summer time.
    assert!(place("14 d 22 h left") < place("Needs a person"));
    assert!(place("Needs a person") < place("1 silent host"));
    place("1 principal without a customer");
    place("silent for 30 min");
    place("Leased and never reported");
}

#[tokio::test]
async fn a_run_says_how_its_number_came_about() {
    let site = with_a_case().await;
    let page = site.get("/runs/L-2").await.body;
    assert!(page.contains("2 never reported") && page.contains("How the number came about"), "{page}");
    assert!(page.contains("not mapped"));
    let measured = site.get("/runs/L-1").await.body;
    assert!(
        measured.contains("title=\"exactly 97320 teraoperations\""),
        "what was measured stands apart from gaps"
    );
    assert!(measured.contains("title=\"exactly 1881520 teraoperations\""), "and so do the gaps");
}

#[tokio::test]
async fn a_run_says_what_it_looks_like_as_evidence_and_what_its_model_needed() {
    let site = with_a_case().await;
    let run = site.json("/api/v1/runs/L-1").await["attempts"][0].clone();
    let words = match run["class"].as_str().expect("text") {
        "undetermined" => "not determined".to_owned(),
        class => format!("looks like {class} ({:.2})", run["likelihood"].as_f64().expect("a number")),
    };
    for path in ["/runs/L-1", "/runs", "/customers/C-1"] {
        let page = site.get(path).await.body;
        assert!(page.contains(&words), "{path}: {words} is missing in {page}");
        assert!(page.contains("no determination: nothing is counted less because of it"), "{path}");
    }
    let needed = run["model_operations"]["with_gaps"]["best_tera"].as_str().expect("text");
    for path in ["/runs/L-1", "/customers/C-1"] {
        let page = site.get(path).await.body;
        assert!(page.contains(&format!("title=\"exactly {needed} teraoperations\"")), "{path}");
        assert!(page.contains("Executed is what the hardware did"), "{path}");
    }
}

#[tokio::test]
async fn the_words_are_meets_the_criteria_and_never_must_report() {
    let site = with_a_case().await;
    for path in ["/", "/cases/case-0001", "/rules", "/cases/case-0001/report"] {
        let page = site.get(path).await.body;
        assert!(page.to_lowercase().contains("the criteria of"), "{path}");
        assert!(!page.to_lowercase().contains("must report"), "{path}");
    }
}

#[tokio::test]
async fn a_masked_report_says_how_to_open_it() {
    let site = with_a_case().await;
    let page = site.get("/cases/case-0001/report").await.body;
    assert!(page.contains("weighbridge-collector report case-0001"), "{page}");
}

#[tokio::test]
async fn an_empty_collector_says_what_to_do_next() {
    let site = Site::empty().await;
    for (path, next) in [
        ("/", "import agents agents.csv"),
        ("/fleet", "import agents agents.csv"),
        ("/customers", "import customers customers.csv"),
        ("/runs", "import leases leases.csv"),
        ("/cases", "No cases."),
        ("/rules", "withdrawn"),
    ] {
        let page = site.get(path).await;
        assert_eq!(page.status, StatusCode::OK);
        assert!(page.body.contains(next), "{path}: {}", page.body);
    }
}

#[tokio::test]
async fn what_is_not_there_is_a_page_for_people() {
    let site = Site::empty().await;
    for path in [
        "/nothing",
        "/customers/C-9",
        "/runs/x",
        "/cases/x",
        "/cases/x/report",
        "/accelerators/x",
        "/host?name=x",
    ] {
        let page = site.get(path).await;
        assert_eq!(page.status, StatusCode::NOT_FOUND, "{path}");
        assert!(
            page.header("content-type").starts_with("text/html") && page.body.contains("Not found"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn what_somebody_named_cannot_become_markup() {
    let site = Site::empty().await;
    let page = site.get("/customers/%3Cscript%3Ealert(1)%3C%2Fscript%3E").await;
    assert_eq!(page.status, StatusCode::NOT_FOUND);
    assert!(!page.body.contains("<script") && page.body.contains("&lt;script&gt;"), "{}", page.body);
}
