//! Compiles the wire schema without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["tercet/v1/tercet.proto"], ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("tercet.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure()
        .bytes(".tercet.v1")
        .extern_path(".tercet.v1.ReadResponse", "crate::v1::ReadResponse")
        .type_attribute(".tercet.v1.StatusResponse", "#[derive(serde::Serialize)]")
        .type_attribute(".tercet.v1.PeerStatus", "#[derive(serde::Serialize)]")
        .type_attribute(".tercet.v1.SubmitResponse", "#[derive(serde::Serialize)]")
        .type_attribute(".tercet.v1.TailResponse", "#[derive(serde::Serialize)]")
        .type_attribute(".tercet.v1.ExplainResponse", "#[derive(serde::Serialize)]")
        .compile_fds(descriptors)?;
    Ok(())
}
