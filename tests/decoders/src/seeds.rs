//! Where mutations begin: something right of every kind.

use std::{
    fs,
    path::{Path, PathBuf},
};

#[path = "../../../collector/registry/tests/support/mmdb.rs"]
mod mmdb;

use mmdb::{Data, Shape};
use prost::Message;
use weighbridge_meter::UtcMillis;
use weighbridge_store::{
    Body, Entry, Fact,
    entry::{Clocks, Received},
};
use weighbridge_tests::handmade::Sender;
use weighbridge_wire::{
    Status, limits, proto,
    report::{Report, seal},
};

const MOMENT: UtcMillis = UtcMillis(1_767_225_600_000);

/// A mapping of the columns of some system.
pub(crate) const MAPPING: &str = "delimiter = \";\"\nignore_unknown = true\n[fields]\nid = \"Account\"\n\
    kind = { column = \"Type\", values = { Ltd = \"entity\", Ms = \"person\" }, default = \"entity\" }\n\
    names.legal.full = { columns = [\"First\", \"Last\"], separator = \" \", lines = \", \" }\n\
    emails = { column = \"Mail\", list = \"|\" }\n";

/// One of each size of a record.
fn places() -> Vec<Vec<u8>> {
    let value = || {
        let country = Data::Map(vec![("iso_code", Data::Text("FR"))]);
        Data::Map(vec![
            ("country", country),
            ("is_anonymous", Data::Bool(true)),
            ("asn", Data::Number(64_496)),
        ])
    };
    let networks: [(std::net::IpAddr, u32, Data); 2] =
        [([192, 0, 2, 0].into(), 24, value()), ([198, 51, 100, 0].into(), 30, value())];
    let of = |(record_size, ip_version)| {
        mmdb::write(Shape { record_size, ip_version, built: 1_767_225_600 }, &networks)
    };
    [(24, 4), (28, 6), (32, 4)].map(of).into()
}

/// Something right for the decoder of this name.
pub fn seeds(name: &str) -> Vec<Vec<u8>> {
    let texts = |list: &[&str]| list.iter().map(|text| text.as_bytes().to_vec()).collect();
    match name {
        "journal" => journal(),
        "spool-files" => vec![
            b"EPOCH\n\0generation-1\n\x002 1 60\n".to_vec(),
            b"EPOCH\n0123456789abcdef0123456789abcdef\n\0\x004 1 900\n".to_vec(),
            b"\0\0".to_vec(),
        ],
        "envelope" => envelopes(),
        "batch" => envelopes().iter().filter_map(|bytes| plain(bytes)).collect(),
        "ledger-entry" => entries(),
        "certificate" => crate::trust::certificates(),
        "certificate-request" => crate::trust::requests(),
        "enrolment" => crate::trust::messages(),
        "exposition" => texts(&[
            include_str!("../../../agent/tests/exporters/dcgm-h100.txt"),
            include_str!("../../../agent/tests/exporters/dcgm-mig.txt"),
            include_str!("../../../agent/tests/exporters/gaudi.txt"),
            "a{b=\"c\\\"d\\n\",e=\"\"} NaN 12\n# HELP x\nx +Inf\n",
        ]),
        "redfish" => texts(&[REPORT, PROCESSOR]),
        "gpu-metrics" => gpu_metrics(),
        "answer" => texts(&[
            "\u{1}{\"outcome\":\"accepted\",\"batch_hash\":\"HASH\",\"store_generation\":\"g\",\"promise\":null,\
             \"missing\":[{\"epoch\":\"0123456789abcdef0123456789abcdef\",\"first\":1,\"last\":2}]}",
            "\u{2}{\"title\":\"conflict\",\"status\":409,\"detail\":\"\"}",
        ]),
        "lease-file" => texts(&[
            "lease,host,accelerator,principal,start,end\nL-1,host-1,*,lease:a,2026-01-01T00:00:00Z,\n\
             L-2,host-2,8x10de:2330,lease:b,2026-01-01T00:00:00Z,2026-02-01T00:00:00Z\n",
        ]),
        "process-files" => process_files(),
        "import-agents" => texts(&["agent,host,site,fabric,public_key,valid_from,valid_to\n\
             a,h,s,f,5ZbXPpzP0zZbF3wzu0VRVd3cvo7cJ4QWzYJ6mR2pPTA=,2026-01-01T00:00:00Z,\n"]),
        "import-customers" => texts(&[
            "customer,kind,us_person,control_group,name,address,locations,payment_means,payment_source,email,\
             telephone,access\nC-1,entity,foreign,G-1,Name,Street,Here,card,bank,a@b.example,+1,\
             192.0.2.1@2026-01-01T00:00:00Z\nC-2,person,us,,\"A, b\",,,,,,,\n",
        ]),
        "import-principals" => {
            texts(&["principal,customer,valid_from,valid_to\nlease:a,C-1,2026-01-01T00:00:00Z,\n"])
        }
        "import-parties" => texts(&[
            "id,kind,names.legal.full,names.alias.full,names.alias.given,emails,us_person,us_person.at,accesses\n\
             C-1,person,Jane Doe,Jo;D\\;o,;D,a@b.example;c@d.example,us;foreign,2026-01-01;2026-02-01T00:00:00Z,\
             192.0.2.1@2026-01-01T00:00:00Z\nC-2,entity,\"A, b\",,,,,,\n",
            "Account;Type;First;Last;Mail\nC-1;Ms;Jane;Doe;a@b.example|c@d.example\nC-2;;;\"A; b\";\n",
        ]),
        "party-mapping" => texts(&[MAPPING]),
        "party-records" => texts(&[
            "{\"id\":\"C-1\",\"control_group\":\"G\",\"standing\":{\"opened\":\"2026-01-01T00:00:00Z\"},\
             \"party\":{\"kind\":\"person\",\"names\":[{\"kind\":\"legal\",\"full\":\"Jane Doe\"}],\"born\":\"1970-05\",\
             \"us_person\":[{\"says\":\"us\",\"basis\":\"told\",\"decides\":true,\"at\":\"2026-01-01T00:00:00Z\",\"by\":\"d\"}],\
             \"accesses\":[\"192.0.2.1@2026-01-01T00:00:00Z\"]}}\n{\"id\":\"C-2\",\"party\":{\"kind\":\"entity\"}}\n",
        ]),
        "import-interests" => {
            texts(&["owner,asset,kind,share,from,to,substantial_control\na,b,shareholding,25,,,\n\
             a,c,voting_rights,12.5-50,2026-01-01,2026-02-01T00:00:00Z,true\na,d,shareholding,>25,,,false\n"])
        }
        "access-log" => texts(&[
            "customer,address,at,what\nC-1,192.0.2.1:443,1767225600,\nC-1,[2001:db8::1]:1,2026-01-01T00:00:00Z,administration\n",
            "{\"customer\":\"C-1\",\"address\":\"192.0.2.1\",\"at\":1767225600.5}\n",
        ]),
        "place-database" => places(),
        "import-slurm" => texts(&[
            include_str!("../../../collector/registry/tests/slurm/22.05.json"),
            "JobIDRaw|Account|Cluster|Submit|Start|End|State|NodeList|AllocTRES\n7|a|c|1|2|3|COMPLETED|n1|gres/gpu=1\n",
        ]),
        "slurm-hook" => texts(&[
            r#"{"version":1,"cluster":"c","job":7,"restart":0,"account":"a","uid":5,"node":"n","gpus":"0-1,GPU-a",
            "boot":"000102030405060708090a0b0c0d0e0f","began":{"boot_ms":5,"wall":"2026-01-31T08:00:00Z"},
            "ended":{"boot_ms":6,"wall":"2026-01-31T08:00:00Z"}}"#,
        ]),
        "libvirt-domain" => texts(&[
            include_str!("../../../agent/tests/libvirt/shapes/nova-1.1-whole-devices.xml"),
            include_str!("../../../agent/tests/libvirt/shapes/nova-mediated-of-a-device.xml"),
            include_str!("../../../agent/tests/libvirt/shapes/forged-title-in-cdata.xml"),
            include_str!("../../../agent/tests/libvirt/shapes/unclear-two-projects.xml"),
        ]),
        "kubernetes" => kubernetes(),
        "import-leases" => texts(&[
            "lease,host,accelerator,principal,start,end\nL-1,h,8x10de:2330,lease:a,2026-01-01T00:00:00Z,\
             2026-02-01T00:00:00Z\nL-2,h,*,lease:b,2026-01-01T00:00:00Z,\n",
        ]),
        "log-text" => texts(&[
            "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "example.com/log\n7\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n— example.com/log Az3grlgtzPICa5OS8npVmf1\
             Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n",
            "old 3\nPlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n\nexample.com/log\n7\n\
             CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n— example.com/log Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJur\
             mRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n",
            "c2sp.org/tlog-proof@v1\nindex 3\nPlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n\nexample.com/log\n7\n\
             CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n— example.com/log Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJur\
             mRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n",
            "tile/0/x001/x234/067\ntile/entries/000.p/7\ntile/1/001.p/255\n",
        ]),
        "status-report" => vec![report()],
        "usage-summary" => texts(&[
            "{\"summary\":1,\"generation\":\"01010101010101010101010101010101\",\"place\":{\"index\":7,\"segment\":3,\"offset\":120},\"chain\":\
             \"0303030303030303030303030303030303030303030303030303030303030303\",\"made_at\":\
             \"2026-01-01T00:00:00Z\",\"program\":\"0.1.0\"}\n\
             {\"table\":\"hours\",\"columns\":[\"accelerator\",\"hour\"]}\n[\"GPU-1\",1767225600000]\n",
        ]),
        "backup-manifest" => texts(&[
            "{\"backup\":1,\"made_at\":\"2026-01-01T00:00:00Z\",\"program\":\"0.1.0\",\"generation\":\
             \"01010101010101010101010101010101\",\"place\":{\"index\":7,\"segment\":3,\"offset\":120},\"chain\":\
             \"0303030303030303030303030303030303030303030303030303030303030303\",\"oldest_segment\":1,\
             \"files\":1,\"bytes\":9}\n{\"path\":\"data/ledger/1.seg\",\"stored\":\"files/1\",\"bytes\":9,\
             \"sha256\":\"0303030303030303030303030303030303030303030303030303030303030303\",\
             \"modified_ns\":1}\n",
        ]),
        "promise" => texts(&[
            "{\"sequence\":7,\"batch_hash\":\"0202020202020202020202020202020202020202020202020202020202020202\",\
             \"store_generation\":\"01010101010101010101010101010101\",\"promise\":{\"leaf_hash\":\
             \"0303030303030303030303030303030303030303030303030303030303030303\",\"received_at\":\
             \"2026-01-01T00:00:00Z\",\"key_id\":\"k\",\"signature\":\"AAAA\"}}",
        ]),
        "report-proof" => texts(&[
            "{\"format\":\"weighbridge-proof-v1\",\"case\":\"case-0001\",\"report_sha256\":\"00\",\"log\":\
             \"PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW\",\"checkpoint\":\"PeterNeumann\\n2\\n\
             CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\\n\\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZIn\
             NIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\\n\",\"figures\":{\"as_of\":\"2026-01-01T00:00:00Z\",\
             \"batches\":1,\"windows\":1,\"low_tera\":\"1\",\"best_tera\":\"2\",\"high_tera\":\"3\",\"measured_ms\":4,\
             \"interpolated_ms\":0,\"recomputed\":false},\"rows\":[],\"entries\":[{\"entry\":1,\"data\":\
             \"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\",\"what\":\"batch 1\"}],\"nodes\":[\
             \"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\"],\"signature\":\"\"}",
        ]),
        "rule-pack" => texts(&[
            include_str!("../../../collector/casework/packs/us-ny-raise@1.toml"),
            include_str!("../../../collector/casework/packs/us-702.7@1.toml"),
        ]),
        "agent-config" => texts(&[
            include_str!("../../../agent/tests/configs/valid/everything.toml"),
            "[meter]\nperiod = \"1s\"\n[spool]\nmax_bytes = \"2GiB\"\n",
        ]),
        "collector-config" => texts(&[
            "[store]\ndata = \"/d\"\nsegment_bytes = 5000\n[keys]\noperator_key = \"/k\"\n[ingest]\n\
             listen = \"127.0.0.1:0\"\n[rules]\nevery = \"10s\"\nenable = [\"x\"]\n[log]\nlevel = \"warn\"\n",
        ]),
        "accelerator-table" => {
            vec![beginning(include_str!("../../../agent/meter/data/accelerators.csv"), 6_000)]
        }
        "recording" => texts(&[
            "t_s,gpu,power_w,gpu_util_pct,sm_active,tensor_active,dram_active,nvlink_tx_Bps\n0,0,100,50,0.5,0.1,0.2,3\n\
             1,0,101,51,,0.2,nan,4\n0,1,1,1,1,1,1,1\n",
        ]),
        "scenario" => texts(&[
            "seed = 7\n[[accelerator]]\nid = \"GPU-0\"\nname = \"NVIDIA H100 80GB HBM3\"\nrepeat = true\n\
             [[accelerator.phase]]\nfor = \"50m\"\ntensor = 0.45\nbusy = 1.0\npower_w = 640\nnoise = 0.02\n\
             [[accelerator.phase]]\nfor = \"10m\"\nfault = \"device_lost\"\n",
        ]),
        _ => Vec::new(),
    }
}

const REPORT: &str = r##"{"Timestamp":"2026-01-01T00:00:00Z","Oem":{"Nvidia":{"SensingIntervalMilliseconds":1000}},
"MetricValues":[{"MetricProperty":"/redfish/v1/Systems/1/Processors/GPU_0/ProcessorMetrics#/Oem/Nvidia/SMActivityPercent",
"MetricValue":"12.5","Timestamp":"2026-01-01T00:00:00+01:00","Oem":{"Nvidia":{"MetricValueStale":true}}},
{"MetricProperty":"/redfish/v1/Systems/1/Processors/GPU_0/Ports/NVLink_0/Metrics#/Oem/Nvidia/NVLinkDataTxBandwidthGbps",
"MetricValue":"3"}]}"##;

const PROCESSOR: &str = r#"{"OperatingSpeedMHz":1500,"BandwidthPercent":55.5,"Oem":{"Nvidia":
{"AccumulatedGPUContextUtilizationDuration":"PT16H30M","SMActivityPercent":12,"TensorCoreActivityPercent":"3.5"},
"Dell":{"GPUMemoryClockMHz":null}},"PowerWatts":{"Reading":400.5},"EnergyJoules":{"Reading":1e9,"LifetimeReading":2e12}}"#;

fn beginning(text: &str, most: usize) -> Vec<u8> {
    let lines = text.split_inclusive('\n').scan(0, |sum, line| {
        *sum += line.len();
        (*sum <= most).then_some(line)
    });
    lines.collect::<String>().into_bytes()
}

fn envelopes() -> Vec<Vec<u8>> {
    let sender = Sender::named("host-1");
    let mut all: Vec<Vec<u8>> = vec![
        include_bytes!("../../../agent/wire/samples/v1-all-records.bin").to_vec(),
        include_bytes!("../../../agent/wire/samples/v1-features.bin").to_vec(),
    ];
    all.extend((1..4).map(|sequence| sender.seal(&sender.batch(sequence, [7; 32], MOMENT, 3)).bytes));
    all
}

fn plain(envelope: &[u8]) -> Option<Vec<u8>> {
    let signed = proto::Signed::decode(envelope).ok()?;
    zstd::bulk::decompress(&signed.payload, limits::DECODED_BYTES).ok()
}

fn report() -> Vec<u8> {
    let sender = Sender::named("host-1");
    let batch = sender.batch(1, [7; 32], MOMENT, 1);
    let status = Status {
        at: MOMENT,
        version: "0.1.0".into(),
        host: "host-1".into(),
        source_state: "ok".into(),
        spool_bytes: 4_096,
        unacknowledged: 2,
    };
    let (agent, epoch, boot) = (batch.agent, batch.epoch, batch.boot);
    let sealed = seal(&Report { agent, epoch, sequence: 1, boot, boot_ms: 60_000, status }, &sender.key);
    proto::Signed::decode(sealed.as_slice()).map(|signed| signed.payload).unwrap_or_default()
}

fn entries() -> Vec<Vec<u8>> {
    let clocks = Some(Clocks { boot_ms: 1, wall: MOMENT });
    let mut all: Vec<Vec<u8>> = envelopes()
        .into_iter()
        .map(|envelope| {
            let body = Body::Batch(Received { clocks, salt: [3; 16], envelope });
            Entry { received: MOMENT, body }.encode(&[3; 16])
        })
        .collect();
    let facts = [
        Fact::Method { method: "m".into(), figures_sha256: "00".into() },
        Fact::Record { kind: "case".into(), key: "k".into(), body: Vec::from_iter([1, 2]).into() },
    ];
    all.extend(facts.map(|fact| Entry { received: MOMENT, body: Body::Fact(fact) }.encode(&[3; 16])));
    all
}

fn journal() -> Vec<Vec<u8>> {
    let Ok(folder) = tempfile::tempdir() else { return Vec::new() };
    let written = weighbridge_journal::Journal::open(folder.path(), weighbridge_journal::Options::default());
    let Ok((mut journal, _)) = written else { return Vec::new() };
    let appended = (1..5).try_for_each(|size: usize| journal.append(&vec![9; size * 30]).map(drop));
    if appended.and_then(|()| journal.sync()).is_err() {
        return Vec::new();
    }
    let bytes = std::fs::read(folder.path().join(format!("{:020}.seg", 1))).unwrap_or_default();
    vec![[&[1], &bytes[..]].concat(), [&[2], &bytes[..]].concat(), [&[1], &bytes[..100]].concat()]
}

/// Tables of the sizes that drivers have, with their headers.
fn gpu_metrics() -> Vec<Vec<u8>> {
    let sizes = [(1_u8, 96_u16), (2, 104), (3, 120), (4, 288), (5, 360), (6, 1_664), (7, 2_208), (8, 3_872)];
    let tables = sizes.map(|(content, size)| {
        let mut bytes = vec![0x21; usize::from(size)];
        bytes[..2].copy_from_slice(&size.to_le_bytes());
        (bytes[2], bytes[3]) = (1, content);
        bytes
    });
    tables.into()
}

/// Every shape of a cgroup that the agent's tests know, and one of each other file.
fn process_files() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../agent/tests/cgroups");
    let mut files: Vec<PathBuf> = fs::read_dir(folder.join("shapes"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|shape| shape.path().join("4242/cgroup"))
        .collect();
    files.sort();
    for other in ["shapes/unit/4242/stat", "shapes/unit/4242/status", "libvirt/instance-00000007.xml"] {
        files.push(folder.join(other));
    }
    files.iter().filter_map(|file| fs::read(file).ok()).collect()
}

/// A list of a kubelet, and what an API server says: a byte tells which.
fn kubernetes() -> Vec<Vec<u8>> {
    let list = b"\x0a\x29\x0a\x01p\x12\x01n\x1a\x21\x0a\x01m\x12\x06\x0a\x01r\x12\x01d\x2a\x14\x12\x01c\x1a\x01n\x22\x0c\x12\
        \x01v\x1a\x01o\x22\x01x\x2a\x01s";
    let pod = r#"{"metadata":{"name":"p","namespace":"n","uid":"00000001-aaaa-bbbb-cccc-000000000000","resourceVersion":"7",
        "labels":{"jobset.sigs.k8s.io/restart-attempt":"2"},"annotations":{},"ownerReferences":[{"apiVersion":"batch/v1",
        "kind":"Job","name":"j","uid":"00000002-aaaa-bbbb-cccc-000000000000","controller":true}]},"status":{"phase":"Failed",
        "startTime":"2026-01-31T08:00:00Z","containerStatuses":[{"state":{"terminated":{"finishedAt":
        "2026-01-31T08:00:01Z"}}}]}}"#;
    let gone = format!(r#"{{"type":"DELETED","object":{pod}}}"#);
    let error = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}"#;
    let page = format!(r#"{{"metadata":{{"resourceVersion":"7","continue":"x"}},"items":[{pod},null]}}"#);
    let slices = include_str!("../../../agent/tests/kubernetes/slices-v1beta1.json");
    let names = "nvidia.com/gpu nvidia1/gi2/vgpu5\nnvidia.com/gpu MIG-GPU-01234567-89ab-cdef-0123-456789abcde1/2/1\n\
                 amd.com/gpu 0000:c1:00.0\n";
    let of = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat();
    vec![
        of(0, list),
        of(1, gone.as_bytes()),
        of(1, error.as_bytes()),
        of(2, page.as_bytes()),
        of(3, slices.as_bytes()),
        of(4, names.as_bytes()),
    ]
}
