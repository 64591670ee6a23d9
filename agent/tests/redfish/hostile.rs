//! Controllers that answer with something else than they should.

use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::{Value, json};
use weighbridge_agent::source::{AcceleratorSource, RedfishSource, SourceState};
use weighbridge_meter::GapCause;

use crate::{
    options,
    server::{Bmc, Odd, Tree},
    source, tensor,
    trees::{BASEBOARD, FIRST, GPM, METRICS, SECOND, Work, collection, hgx, processor, renew},
};

#[tokio::test]
async fn a_report_that_is_no_json_is_made_up_for_by_the_processors_own() {
    let bmc = Bmc::start(hgx()).await;
    bmc.odd(GPM, Odd::Bytes(b"{\"MetricValues\": [".to_vec()));
    assert_eq!(tensor(&source(&[&bmc]).look().await, FIRST), "tensor 725");
}

#[tokio::test]
async fn a_report_of_another_shape_says_nothing() {
    for shape in
        [json!([]), json!({"MetricValues": {"a": 1}}), json!({"MetricValues": [1, null, {}]}), json!("")]
    {
        let bmc = Bmc::start(hgx()).await;
        bmc.put(GPM, shape);
        assert_eq!(tensor(&source(&[&bmc]).look().await, FIRST), "tensor 725");
    }
}

#[tokio::test]
async fn a_gpu_of_which_nothing_can_be_read_although_it_is_there_is_a_failed_read() {
    let bmc = Bmc::start(hgx()).await;
    let mut source = source(&[&bmc]);
    source.look().await;
    renew(&bmc, 30, Work::default());
    for path in bmc.paths().iter().filter(|path| path.contains("Metric")) {
        bmc.odd(path, Odd::Status(500));
    }
    assert_eq!(tensor(&source.look().await, FIRST), "read_failed");
}

#[tokio::test]
async fn what_is_no_redfish_service_is_said_to_be_none() {
    for (odd, expected) in [
        (Odd::Bytes(b"<html>log in</html>".to_vec()), "not JSON"),
        (Odd::Status(404), "no Redfish service"),
        (Odd::Status(302), "status 302"),
        (Odd::Status(503), "status 503"),
        (Odd::Bytes("[".repeat(100_000).into_bytes()), "recursion limit"),
    ] {
        let bmc = Bmc::start(hgx()).await;
        bmc.odd("/redfish/v1/", odd);
        let look = source(&[&bmc]).look().await;
        let SourceState::Missing(GapCause::ReadFailed, detail) = &look.source_state else {
            panic!("{:?}", look.source_state);
        };
        assert!(detail.contains(expected), "{detail}");
    }
}

#[tokio::test]
async fn an_answer_of_more_than_eight_mebibytes_is_not_read() {
    for odd in [Odd::Bytes(vec![b' '; 9 << 20]), Odd::Endless(9 << 20), Odd::Endless(usize::MAX)] {
        let bmc = Bmc::start(hgx()).await;
        bmc.odd(GPM, odd);
        let mut source = source(&[&bmc]);
        assert_eq!(tensor(&source.look().await, FIRST), "tensor 725");
        bmc.odd("/redfish/v1/", Odd::Endless(9 << 20));
        let look = RedfishSource::start(options(&[&bmc])).look().await;
        assert!(
            matches!(look.source_state, SourceState::Missing(GapCause::ReadFailed, why) if why.contains("8388608"))
        );
    }
}

#[tokio::test]
async fn links_that_lead_elsewhere_are_not_followed() {
    let elsewhere = Bmc::start(hgx()).await;
    let port_and_path = |scheme: &str| elsewhere.url().replacen("http:", scheme, 1) + "/redfish/v1/Systems";
    for link in [port_and_path("http:"), port_and_path(""), "file:///etc/passwd".into(), "https:/".into()] {
        let bmc = Bmc::start(hgx()).await;
        bmc.put("/redfish/v1/", json!({"Systems": {"@odata.id": link}}));
        let look = source(&[&bmc]).look().await;
        let SourceState::Missing(GapCause::ReadFailed, detail) = &look.source_state else {
            panic!("{link}: {:?}", look.source_state);
        };
        assert!(detail.ends_with("a link that leads away from the controller"), "{link}: {detail}");
    }
    assert_eq!(elsewhere.asked().len(), 0);
}

#[tokio::test]
async fn pages_without_end_come_to_one() {
    let bmc = Bmc::start(hgx()).await;
    let path = format!("{BASEBOARD}/Processors");
    let mut page = collection(&[&processor(1)]);
    page["Members@odata.nextLink"] = json!(path);
    bmc.put(&path, page);
    let look = source(&[&bmc]).look().await;
    assert_eq!((look.devices.len(), tensor(&look, FIRST)), (1, "tensor 5000".into()));
}

#[tokio::test]
async fn a_collection_is_read_for_so_many_pages_and_members_and_no_further() {
    let path = format!("{BASEBOARD}/Processors");
    let next = |number: usize| format!("{path}/Page{number}");
    let asked_for =
        |asked: Vec<String>, part: &str| asked.iter().filter(|asked| asked.contains(part)).count();
    // Pages with nothing on them.
    let bmc = Bmc::start(hgx()).await;
    for number in 0..100 {
        let mut page = collection(&[]);
        page["Members@odata.nextLink"] = json!(next(number));
        bmc.put(&if number == 0 { path.clone() } else { next(number - 1) }, page);
    }
    source(&[&bmc]).look().await;
    assert_eq!(asked_for(bmc.asked(), "/Page"), 63, "and the first one");

    // Pages full of processors that are not there: the third makes it more than are read.
    let bmc = Bmc::start(hgx()).await;
    for number in 0..4 {
        let members: Vec<String> =
            (0..400).map(|member| format!("{path}/None{}", number * 400 + member)).collect();
        let mut page = collection(&members.iter().map(String::as_str).collect::<Vec<_>>());
        page["Members@odata.nextLink"] = json!(next(number));
        bmc.put(&if number == 0 { path.clone() } else { next(number - 1) }, page);
    }
    source(&[&bmc]).look().await;
    let asked = bmc.asked();
    assert_eq!((asked_for(asked.clone(), "/Page"), asked_for(asked, "/None")), (2, 1024));
}

#[tokio::test]
async fn a_processor_that_cannot_be_read_this_time_is_still_there() {
    let bmc = Bmc::start(hgx()).await;
    let mut options = options(&[&bmc]);
    options.discover_every = 1;
    let mut source = RedfishSource::start(options);
    source.look().await;
    bmc.odd(&processor(1), Odd::Status(500));
    for seconds in [30, 60, 90] {
        renew(&bmc, seconds, Work::default());
        let look = source.look().await;
        assert_eq!(
            (tensor(&look, FIRST), tensor(&look, SECOND)),
            ("tensor 5000".into(), "tensor 500".into())
        );
    }
}

#[tokio::test]
async fn a_row_that_names_the_clock_of_another_resource_is_not_taken_for_the_gpus() {
    let bmc = Bmc::start(hgx()).await;
    bmc.change(METRICS, |report| {
        for row in report["MetricValues"].as_array_mut().unwrap() {
            let uri =
                row["MetricProperty"].as_str().unwrap().replace("/ProcessorMetrics#", "/MemoryMetrics#");
            row["MetricProperty"] = json!(uri);
        }
    });
    let look = source(&[&bmc]).look().await;
    assert!(crate::state(&look, FIRST).contains("MHz 1200"), "{}", crate::state(&look, FIRST));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<f64>().prop_map(Value::from),
        "[A-Z0-9a-z/#@-]{0,12}".prop_map(Value::from),
        Just(json!("/redfish/v1/x")),
        Just(json!("GPU")),
        Just(json!("00000000-0000-0000-0000-000000000001")),
    ];
    let key = prop_oneof![
        Just("@odata.id"),
        Just("Systems"),
        Just("Members"),
        Just("Members@odata.nextLink"),
        Just("Processors"),
        Just("ProcessorType"),
        Just("UUID"),
        Just("Metrics"),
        Just("Oem"),
        Just("Nvidia"),
        Just("TensorCoreActivityPercent"),
    ];
    leaf.prop_recursive(4, 32, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key.clone(), inner), 0..6).prop_map(|pairs| Value::Object(
                pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
            )),
        ]
    })
}

/// A controller that says the same everywhere, whatever that is: each look ends, and panics nowhere.
#[test]
fn no_json_whatever_stops_the_looks() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut runner = TestRunner::new(ProptestConfig::with_cases(48));
    let looked = runner.run(&any_json(), |value| {
        runtime.block_on(async {
            let bmc = Bmc::start(Tree::new()).await;
            let links = json!({"@odata.id": "/redfish/v1/x"});
            let mut everything = json!({
                "Systems": links, "Processors": links, "Members": [links], "Metrics": links,
                "ProcessorType": "GPU", "TelemetryService": links, "MetricReports": links,
            });
            if let (Some(everything), Some(some)) = (everything.as_object_mut(), value.as_object()) {
                everything.extend(some.clone());
            }
            bmc.anywhere(everything);
            let mut source = source(&[&bmc]);
            for _ in 0..2 {
                let look = source.look().await;
                let panicked =
                    matches!(&look.source_state, SourceState::Missing(_, why) if why.contains("no end"));
                assert!(!panicked, "{:?}", look.source_state);
            }
        });
        Ok(())
    });
    looked.unwrap();
}
