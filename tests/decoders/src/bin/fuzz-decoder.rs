//! libFuzzer around one decoder: the one that `WEIGHBRIDGE_DECODER` names. `tests/fuzz` builds and runs it.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use weighbridge_decoders::{Target, target};

fuzz_target!(|bytes: &[u8]| {
    static TARGET: OnceLock<&'static Target> = OnceLock::new();
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("WEIGHBRIDGE_DECODER").expect("WEIGHBRIDGE_DECODER names a decoder");
        target(&name).unwrap_or_else(|| panic!("there is no decoder {name}"))
    });
    (target.read)(bytes);
});
