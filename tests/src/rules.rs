//! A rule pack that a few seconds of one accelerator pass, and a customer that it is about.

use std::{fs, path::Path};

use ed25519_dalek::SigningKey;
use sha2::{Digest, Sha256};
use weighbridge_tlog::note::{KeyType, Note, VerifierKey};

/// Id of the pack.
pub const PACK: &str = "small";

/// Every value of [`CUSTOMERS`] that says who the customer is. Nobody of that name exists.
pub const IDENTITY: [&str; 8] = [
    "Zanzibar Quux Holdings",
    "17 Rue Imaginaire",
    "Ruritania",
    "Bank of Nowhere",
    "wallet-4711",
    "boss@quux.example",
    "+99 555 0199",
    "192.0.2.77",
];

/// `customers.csv` with the foreign customer `C-1`.
pub const CUSTOMERS: &str = "\
customer,kind,us_person,control_group,name,address,locations,payment_means,payment_source,email,telephone,access
C-1,entity,foreign,,Zanzibar Quux Holdings,17 Rue Imaginaire,Ruritania,Bank of Nowhere,wallet-4711,\
boss@quux.example,+99 555 0199,192.0.2.77@2026-03-01T08:00:00Z
";

/// The pack's file: more than one teraoperation of a foreign customer, at any certainty, opens a case.
pub const TEXT: &str = r#"
id = "small"
version = "1"
title = "A small pack"
name = "the proposed small rule"
citation = "nowhere"
checked = "2026-01-31"
evaluate = true
evaluate_reason = "A test needs it."
report_field = [
    { id = "A1", label = "Name", citation = "nowhere", confidence = "secondary", source = "identity.name" },
    { id = "A2", label = "Address", citation = "nowhere", confidence = "secondary", source = "identity.address" },
    { id = "A3", label = "Places", citation = "nowhere", confidence = "secondary", source = "identity.request_locations" },
    { id = "A4", label = "Payment", citation = "nowhere", confidence = "secondary", source = "identity.payment" },
    { id = "A5", label = "Email", citation = "nowhere", confidence = "secondary", source = "identity.email" },
    { id = "A6", label = "Telephone", citation = "nowhere", confidence = "secondary", source = "identity.telephone" },
    { id = "A7", label = "Access", citation = "nowhere", confidence = "secondary", source = "identity.access_addresses" },
]
example = [
    { title = "at the line", rule = "small", standing = "foreign", low = "1e12", best = "1e12", high = "1e12", calibrated_low = "1e12", calibrated_high = "1e12", expect = "not_met" },
]

[applies_to]
who = "foreign"
note = "As a test."

[[status]]
from = "2024-01-29"
value = "proposed"
source = "a gazette"
confidence = "primary"

[[rule]]
id = "small"
title = "a small amount"
citation = "nowhere, section 1"
confidence = "primary"
duty_on = "the operator"
scope = ["customer"]
opens_case = ["certain", "likely", "possible"]

[[rule.condition]]
kind = "operations"
comparator = "gt"
threshold = "1e12"
threshold_origin = "text"

[[clock]]
id = "report"
label = "Report"
starts = "raised"
days = 15
time_zone = "America/New_York"
citation = "nowhere, section 2"
confidence = "secondary"
"#;

/// Puts the pack into `folder`, which is made, and returns what makes a collector use it.
///
/// # Panics
/// If the folder cannot be written.
pub fn configured(folder: &Path) -> String {
    fs::create_dir_all(folder).expect("the folder can be made");
    let key = signed(folder, TEXT);
    format!("[rules]\nfolder = {folder:?}\ntrusted_keys = [{key:?}]\nevery = \"100ms\"\n")
}

/// Puts this text there as the pack, signed, and returns the key that it is to be believed by.
///
/// # Panics
/// If the folder cannot be written.
pub fn signed(folder: &Path, text: &str) -> String {
    let key = SigningKey::from_bytes(&[9; 32]);
    let hash: String = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let signed = format!("weighbridge-pack/v1\nsmall@1.toml\n{hash}\n");
    let note = Note::signed(signed, "legal.example", &key).expect("a name without spaces");
    fs::write(folder.join("small@1.toml"), text).expect("the folder is writable");
    fs::write(folder.join("small@1.toml.sig"), note.to_string()).expect("the folder is writable");
    let verifier = VerifierKey::new("legal.example", KeyType::Ed25519, key.verifying_key());
    verifier.expect("a name without spaces").to_string()
}
