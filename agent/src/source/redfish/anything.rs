//! Reads whatever is given as what a controller said: for tests with bytes that nobody wrote.

use serde_json::Value;

use super::{
    judge::Past,
    rows::{Places, Row, of_environment_metrics, of_processor_metrics},
    tree::Gpu,
};

/// As a metric report and as the objects of one GPU, twice, as two looks would. Must come back.
pub fn read_anything(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return };
    let Ok(id) = "GPU-0".parse() else { return };
    let gpus = [Gpu {
        id,
        name: String::new(),
        pci_device: None,
        max_clock_mhz: None,
        power_limit_mw: None,
        memory_bytes: None,
        path: "/redfish/v1/Systems/1/Processors/GPU_0".into(),
        metrics: None,
        environment: None,
        sensors: Vec::new(),
        memory: Vec::new(),
        chassis: Vec::new(),
    }];
    let mut past = Past::default();
    for look in 1..3 {
        let mut rows = Vec::new();
        Places::of(&gpus).of_report(&value, None, &mut rows);
        of_processor_metrics(0, &value, &mut rows);
        of_environment_metrics(0, &value, &mut rows);
        let newest = rows.iter().filter_map(|row| row.at).max();
        let rows: Vec<&Row> = rows.iter().collect();
        past.judge(&rows, newest, look * 10_000, Some(1_500));
        past.sample_ms();
    }
}
