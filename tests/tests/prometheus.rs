//! Prometheus itself scrapes both programs, and has nothing to say against what they tell it.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use weighbridge_tests::{
    agent::AgentOptions,
    audit::amount,
    http,
    machine::Device,
    prometheus::{self, Prometheus},
    rules,
    site::{Site, Tenant},
};

/// How a name may end: a unit, or that it counts events (`_total`) or carries labels only (`_info`).
const UNITS: [&str; 7] = ["_seconds", "_bytes", "_joules", "_ratio", "_total", "_teraoperations", "_info"];

/// Gauges that count things: the thing that is counted ends the name and is its unit.
const COUNTED: &[&str] = &[
    "weighbridge_collector_denied_agents",
    "weighbridge_collector_store_renewals",
    "weighbridge_collector_summarised_ledger_entries",
    "weighbridge_agent_promises_kept",
    "weighbridge_agent_spool_losses_to_tell",
    "weighbridge_agent_spool_quarantined_files",
    "weighbridge_collector_denied_agents",
    "weighbridge_collector_alarms",
    "weighbridge_collector_lost_batches",
    "weighbridge_collector_missing_batches",
    "weighbridge_agent_accelerators",
    "weighbridge_agent_accelerators_in_condition",
    "weighbridge_collector_accelerators_in_condition",
    "weighbridge_collector_disagreements",
    "weighbridge_collector_findings_of_integrity",
    "weighbridge_agent_spool_unacknowledged_batches",
    "weighbridge_agent_spool_parked_batches",
    "weighbridge_agent_dropped_holdings",
    "weighbridge_agent_unidentified_accelerators",
    "weighbridge_agent_device_processes",
    "weighbridge_agent_slurm_allocations",
    "weighbridge_agent_slurm_unknown_accelerators",
    "weighbridge_agent_slurm_hook_files_refused",
    "weighbridge_agent_libvirt_files_refused",
    "weighbridge_agent_machines",
    "weighbridge_agent_machine_accelerators",
    "weighbridge_agent_machine_parts_unplaced",
    "weighbridge_agent_kubernetes_pods",
    "weighbridge_agent_kubernetes_unmapped_devices",
    "weighbridge_agent_open_files",
    "weighbridge_collector_accelerators",
    "weighbridge_collector_never_seen_accelerators",
    "weighbridge_collector_silent_hosts",
    "weighbridge_collector_agents",
    "weighbridge_collector_customers",
    "weighbridge_collector_unmapped_principals",
    "weighbridge_collector_findings",
    "weighbridge_collector_open_cases",
    "weighbridge_collector_ledger_entries",
    "weighbridge_collector_tree_entries",
    "weighbridge_collector_tree_lag_entries",
    "weighbridge_collector_tree_refusing_witnesses",
];

/// Gauges that are 1 or 0, for whether something is so or which state it is in: there is no unit of that.
const STATES: &[&str] = &[
    "weighbridge_collector_sums_made_anew",
    "weighbridge_collector_tree_signing",
    "weighbridge_collector_tree_fenced",
    "weighbridge_collector_ledger_state",
    "weighbridge_agent_uplink_state",
    "weighbridge_agent_source_state",
    "weighbridge_agent_lease_file_state",
    "weighbridge_agent_slurm_hooks_state",
    "weighbridge_agent_libvirt_state",
    "weighbridge_agent_kubelet_state",
    "weighbridge_agent_kubernetes_api_state",
    "weighbridge_collector_ready",
];

fn site() -> (tempfile::TempDir, Site) {
    let packs = tempfile::tempdir().unwrap();
    let more = rules::configured(packs.path());
    let agents = vec![AgentOptions::quick("host-a", vec![Device::numbered(1), Device::numbered(2)])];
    let mut site = Site::with_config(&more, agents);
    site.lease(&[Tenant {
        customer: "C-1",
        principal: "lease:site-1/one",
        lease: "L-1",
        hosts: &["host-a"],
    }]);
    site.start_agents();
    (packs, site)
}

#[test]
fn prometheus_scrapes_both_programs_and_sees_what_the_api_says_and_that_an_agent_died() {
    let (_packs, mut site) = site();
    let targets = [("agent", site.agents[0].metrics_at()), ("collector", site.collector.http())];
    let prometheus = Prometheus::start(&site.folder().join("prometheus"), &targets);
    for (job, _) in targets {
        prometheus.becomes(&format!("up{{job=\"{job}\"}}"), 1.0);
    }
    for device in site.agents[0].devices() {
        let uuid = &device.uuid;
        let of = |name: &str, more: &str| format!("weighbridge_agent_{name}{{accelerator=\"{uuid}\"{more}}}");
        prometheus.becomes_positive(&of("windows_total", ""));
        prometheus.becomes_positive(&of("energy_joules_total", ""));
        prometheus.becomes_positive(&of("estimated_teraoperations_total", ",bound=\"low\""));
        // What grows is a counter: a rate can be taken of it.
        let best = of("estimated_teraoperations_total", ",bound=\"best\"");
        prometheus.becomes_positive(&format!("rate({best}[30s])"));
    }
    prometheus.becomes("weighbridge_agent_source_state{state=\"ok\"}", 1.0);
    prometheus.becomes("weighbridge_agent_uplink_state{state=\"ok\"}", 1.0);
    prometheus.becomes_positive("weighbridge_agent_cpu_seconds_total");
    prometheus.becomes("weighbridge_collector_ready", 1.0);
    prometheus.becomes("weighbridge_collector_agents{state=\"reporting\"}", 1.0);
    prometheus.becomes("weighbridge_collector_accelerators{tier=\"B\"}", 2.0);
    prometheus.becomes_positive("weighbridge_collector_accelerator_seconds{coverage=\"measured\"}");
    prometheus.becomes_positive("weighbridge_collector_accelerator_held_seconds{state=\"attributed\"}");
    prometheus.becomes("weighbridge_collector_open_cases", 1.0);
    prometheus.becomes_positive("weighbridge_collector_next_clock_due_seconds");

    site.stop_agents();
    // Low counts what was measured alone, so it stands still now, and fits into the 53 bits of a float.
    let customer = site.collector.get("customers/C-1");
    let low = amount(&customer["total"]["with_gaps"]).low;
    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds of two devices are far below 2^53 teraoperations"
    )]
    prometheus
        .becomes("weighbridge_collector_customer_teraoperations{customer=\"C-1\",bound=\"low\"}", low as f64);
    prometheus.becomes("up{job=\"agent\"}", 0.0);
    prometheus.becomes("up{job=\"collector\"}", 1.0);
    prometheus.becomes(
        "weighbridge_collector_ledger_entries{stage=\"appended\"} \
         - ignoring(stage) weighbridge_collector_ledger_entries{stage=\"folded\"}",
        0.0,
    );
}

#[test]
fn promtool_is_silent_and_every_name_says_whose_it_is_and_in_which_unit() {
    let (_packs, site) = site();
    // Gaps, refusals and an open case, so that what counts them is there.
    let device = &site.agents[0].devices()[0].uuid;
    site.measured(1_000);
    site.agents[0].driver().set(device, weighbridge_fake_nvml::Fault::Lost).unwrap();
    let refused = http::request(site.collector.ingest(), "POST", "/api/v1/batches", &[], b"garbage").unwrap();
    assert_eq!(refused.status, 400);
    let texts = weighbridge_tests::wait::until("both tell all they can", || {
        let (agent, collector) = (site.agents[0].metrics()?, site.collector.metrics());
        let there = |text: &str, name: &str| text.lines().any(|line| line.starts_with(name));
        let all = there(&agent, "weighbridge_agent_gap_seconds_total{")
            && there(&agent, "weighbridge_agent_batches_sent_total{")
            && there(&collector, "weighbridge_collector_batches_total{outcome=\"refused_content\"}")
            && there(&collector, "weighbridge_collector_findings{")
            && there(&collector, "weighbridge_collector_next_clock_due_seconds");
        if all { Ok([agent, collector]) } else { Err(agent + &collector) }
    });
    for (text, whose) in texts.iter().zip(["weighbridge_agent_", "weighbridge_collector_"]) {
        let said = prometheus::lint(site.folder(), text);
        assert_eq!((said.code, said.stdout.as_str(), said.stderr.as_str()), (Some(0), "", ""), "{text}");
        let types: Vec<(&str, &str)> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
        assert!(types.len() >= 15, "{text}");
        for (name, kind) in types {
            assert!(name.starts_with(whose), "{name}");
            let unit = UNITS.iter().any(|unit| name.ends_with(unit));
            assert!(unit || COUNTED.contains(&name) || STATES.contains(&name), "{name} ends in no unit");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        }
    }
}
