//! The quick form of `tests/fuzz`: seeds, what once crashed, and mutations from a printed seed.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{fs, path::Path};

use weighbridge_decoders::{TARGETS, Target, seeds, target};
use weighbridge_tests::random::Random;

/// Mutations of each decoder; the long runs are libFuzzer's.
const MUTATIONS: usize = 3_000;

fn mutate(seed: &[u8], random: &mut Random, most: usize) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..random.within(1..6) {
        let len = bytes.len().max(1) as u64;
        let at = usize::try_from(random.within(0..len)).unwrap().min(bytes.len());
        match random.within(0..7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.within(0..8),
            1 if at < bytes.len() => {
                bytes[at] =
                    [0, 1, 0x7f, 0x80, 0xff, b'"', b',', b'\n'][usize::try_from(random.within(0..8)).unwrap()]
            }
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.number() as u8),
            4 => {
                let end = (at + usize::try_from(random.within(1..40)).unwrap()).min(bytes.len());
                bytes.drain(at..end);
            }
            5 => {
                let end = (at + usize::try_from(random.within(1..40)).unwrap()).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let number = random.number() >> random.within(0..64);
                bytes.splice(at..at, number.to_string().into_bytes());
            }
        }
    }
    bytes.truncate(most);
    bytes
}

fn check(target: &Target) {
    let crashes = Path::new(env!("CARGO_MANIFEST_DIR")).join("crashes").join(target.name);
    for file in fs::read_dir(crashes).into_iter().flatten().flatten() {
        (target.read)(&fs::read(file.path()).unwrap());
    }
    let seeds = seeds(target.name);
    assert!(!seeds.is_empty(), "{} begins with something right", target.name);
    let mut random = Random::announced();
    for seed in &seeds {
        (target.read)(seed);
    }
    for _ in 0..MUTATIONS {
        let seed = &seeds[usize::try_from(random.within(0..seeds.len() as u64)).unwrap()];
        (target.read)(&mutate(seed, &mut random, target.most));
    }
}

macro_rules! whatever_is_read_comes_back {
    ($($test:ident: $name:literal)*) => {
        $(#[test]
        fn $test() {
            check(target($name).expect("there is such a decoder"));
        })*

        #[test]
        fn no_decoder_is_left_out() {
            let tested = [$($name),*];
            assert_eq!(TARGETS.iter().map(|target| target.name).collect::<Vec<_>>(), tested);
        }
    };
}

whatever_is_read_comes_back! {
    any_segment_of_a_journal: "journal"
    any_small_files_of_a_spool: "spool-files"
    any_envelope: "envelope"
    any_batch: "batch"
    any_entry_of_a_ledger: "ledger-entry"
    any_exposition: "exposition"
    any_words_of_a_controller: "redfish"
    any_table_of_a_driver: "gpu-metrics"
    any_answer_of_a_collector: "answer"
    any_lease_file: "lease-file"
    any_files_of_a_process: "process-files"
    any_import_of_agents: "import-agents"
    any_import_of_customers: "import-customers"
    any_import_of_principals: "import-principals"
    any_import_of_leases: "import-leases"
    any_import_of_parties: "import-parties"
    any_mapping_of_columns: "party-mapping"
    any_records_of_parties: "party-records"
    any_import_of_interests: "import-interests"
    any_log_of_accesses: "access-log"
    any_database_of_places: "place-database"
    any_jobs_of_slurm: "import-slurm"
    any_file_of_a_hook: "slurm-hook"
    any_machine_of_libvirt: "libvirt-domain"
    any_answer_of_a_kubelet_or_api_server: "kubernetes"
    any_rule_pack: "rule-pack"
    any_configuration_of_an_agent: "agent-config"
    any_configuration_of_a_collector: "collector-config"
    any_certificate: "certificate"
    any_request_for_a_certificate: "certificate-request"
    any_words_on_the_way_in: "enrolment"
    any_accelerator_table: "accelerator-table"
    any_recording: "recording"
    any_scenario: "scenario"
    any_words_of_a_log_or_witness: "log-text"
    any_promise: "promise"
    any_status_of_an_agent: "status-report"
    any_summary_of_usage: "usage-summary"
    any_manifest_of_a_backup: "backup-manifest"
    any_proof_of_a_report: "report-proof"
}
