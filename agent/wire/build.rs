//! Compiles the wire format; no `protoc` needed on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/weighbridge/v1.proto");
    let files = protox::compile(["weighbridge/v1.proto"], ["proto"])?;
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
