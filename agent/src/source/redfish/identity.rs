//! What a processor resource says about which accelerator it is.

use serde_json::Value;
use weighbridge_meter::{AcceleratorId, AcceleratorTable};

/// Its name: by UUID as NVIDIA's library writes it, so that both name one GPU alike, else by serial number, else
/// by host and place. `None` only if not even those make a name.
pub(super) fn accelerator_id(resource: &Value, host: &str, path: &str) -> Option<AcceleratorId> {
    let uuid = resource["UUID"].as_str().and_then(canonical_uuid).map(|uuid| format!("GPU-{uuid}"));
    let serial = || serial(resource).map(|serial| format!("SN-{serial}"));
    let place = || place(host, path);
    [uuid, serial(), Some(place())].into_iter().flatten().find_map(|name| name.parse().ok())
}

/// The name by host and place: what is left where a serial number turns out not to be one GPU's alone.
pub(super) fn place(host: &str, path: &str) -> String {
    format!("{host}/{}", path.trim_start_matches('/'))
}

/// Lower case, with dashes; `None` for what is no UUID and for those that stand for "none".
fn canonical_uuid(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    let text = text.strip_prefix("gpu-").unwrap_or(&text);
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    let hex = text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    let one = |digit: u8| text.bytes().all(|byte| byte == b'-' || byte == digit);
    (lengths == [8, 4, 4, 4, 12] && hex && !one(b'0') && !one(b'f')).then(|| text.to_owned())
}

fn serial(resource: &Value) -> Option<&str> {
    let serial = resource["SerialNumber"].as_str()?.trim();
    let placeholder = ["", "na", "n/a", "none", "null", "unknown", "not available", "0"];
    let says_nothing = placeholder.contains(&serial.to_ascii_lowercase().as_str());
    (!says_nothing).then_some(serial)
}

/// The model under the name that the table knows it by, or as the controller calls it.
///
/// Controllers leave out the vendor, or use the name for people: `B200`, `H100 SXM5`. What they add about memory
/// is let pass; any other addition may be another model, and is not guessed at.
pub(super) fn model_name(table: &AcceleratorTable, resource: &Value) -> String {
    let said = resource["Model"].as_str().or(resource["Name"].as_str()).unwrap_or_default().trim();
    let bare = strip_vendor(said);
    let known = table.models().iter().filter_map(|model| {
        let names = [strip_vendor(&model.device_name), strip_vendor(&model.name)];
        let length = names.iter().filter(|name| is_same(bare, name)).map(|name| name.len()).max()?;
        Some((length, &model.device_name))
    });
    // The longest name is the most particular one; the first of several, as the table's order has it.
    let best = known.rev().max_by_key(|(length, _)| *length);
    match best {
        Some((_, name)) => name.clone(),
        None if said.is_empty() => "unknown".to_owned(),
        None => said.to_owned(),
    }
}

fn strip_vendor(name: &str) -> &str {
    let vendor = name.get(..7).filter(|vendor| vendor.eq_ignore_ascii_case("nvidia "));
    vendor.map_or(name, |_| name[7..].trim_start())
}

/// Whether `said` is `name`, but for what it adds about memory.
fn is_same(said: &str, name: &str) -> bool {
    let Some(start) = said.get(..name.len()) else { return false };
    let rest = &said[name.len()..];
    let is_memory = |word: &str| {
        let word = word.to_ascii_lowercase();
        let size =
            word.strip_suffix("gb").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        size || word.starts_with("hbm")
    };
    start.eq_ignore_ascii_case(name)
        && (rest.is_empty() || rest.starts_with(' '))
        && rest.split_whitespace().all(is_memory)
}

/// `vendor:device` of a PCIe function resource, as the kernel writes it.
pub(super) fn pci_device(function: &Value) -> Option<String> {
    let part = |key: &str| {
        let text = function[key].as_str()?.trim();
        let digits = text.strip_prefix("0x").or(text.strip_prefix("0X")).unwrap_or(text);
        u16::from_str_radix(digits, 16).ok().filter(|id| *id != 0 && *id != 0xffff)
    };
    Some(format!("{:04x}:{:04x}", part("VendorId")?, part("DeviceId")?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PATH: &str = "/redfish/v1/Systems/HGX_Baseboard_0/Processors/GPU_SXM_1";

    #[test]
    fn a_uuid_names_a_gpu_as_the_driver_does_else_its_serial_number_else_its_place() {
        let id = |resource: Value| accelerator_id(&resource, "node7", PATH).map(|id| id.to_string());
        let uuid = "6FE2F4C5-0A37-4D2B-9C10-1F77A5B0C0DE";
        let place = "node7/redfish/v1/Systems/HGX_Baseboard_0/Processors/GPU_SXM_1";
        for (resource, expected) in [
            (json!({"UUID": uuid}), "GPU-6fe2f4c5-0a37-4d2b-9c10-1f77a5b0c0de"),
            (json!({"UUID": format!("GPU-{uuid}")}), "GPU-6fe2f4c5-0a37-4d2b-9c10-1f77a5b0c0de"),
            (
                json!({"UUID": "00000000-0000-0000-0000-000000000000", "SerialNumber": "1650123"}),
                "SN-1650123",
            ),
            (json!({"UUID": "uuid-here", "SerialNumber": " 1650123 "}), "SN-1650123"),
            (json!({"SerialNumber": "N/A"}), place),
            (json!({"SerialNumber": "with blank"}), place),
            (json!({"UUID": 7, "SerialNumber": null}), place),
            (json!([]), place),
        ] {
            assert_eq!(id(resource.clone()).as_deref(), Some(expected), "{resource}");
        }
        assert_eq!(accelerator_id(&json!({}), "node7", &"x".repeat(200)), None);
    }

    #[test]
    fn a_model_is_found_under_the_names_that_controllers_use_and_never_guessed() {
        let table = AcceleratorTable::shipped();
        for (said, expected) in [
            ("NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3"),
            ("H100 80GB HBM3", "NVIDIA H100 80GB HBM3"),
            ("H100 SXM5 80GB", "NVIDIA H100 80GB HBM3"),
            ("nvidia b200", "NVIDIA B200"),
            ("B200 180GB HBM3e", "NVIDIA B200"),
            ("GB300", "NVIDIA GB300"),
            ("NVIDIA H200", "NVIDIA H200"),
            ("NVIDIA H200 141GB HBM3e", "NVIDIA H200"),
            ("NVIDIA H200 NVL", "NVIDIA H200 NVL"),
            ("NVIDIA L40S", "NVIDIA L40S"),
            ("NVIDIA H200 Turbo", "NVIDIA H200 Turbo"),
            ("NVIDIA A10G", "NVIDIA A10G"),
            ("Ĥ100", "Ĥ100"),
            ("", "unknown"),
        ] {
            assert_eq!(model_name(&table, &json!({"Model": said})), expected, "{said}");
        }
        assert_eq!(model_name(&table, &json!({"Model": 5, "Name": "B300"})), "NVIDIA B300 SXM6 AC");
    }

    #[test]
    fn pci_ids_are_written_as_the_kernel_does() {
        let id = |vendor, device| pci_device(&json!({"VendorId": vendor, "DeviceId": device}));
        assert_eq!(id("0x10de", "0x2330").as_deref(), Some("10de:2330"));
        assert_eq!(id("10DE", "2901").as_deref(), Some("10de:2901"));
        assert_eq!(id("0xffff", "0xffff"), None);
        assert_eq!(id("0x10de", ""), None);
    }
}
