//! x
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    file: Option<std::path::PathBuf>,
}
pub(crate) async fn run(_args: Args) -> anyhow::Result<u8> { anyhow::bail!("x") }
