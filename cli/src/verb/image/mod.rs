//! `gantry image`: the image store of this machine, also while the agent runs.

mod pull;
mod shown;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agent::instance::Instance;
use agent_image::registry::config::{ConfigError, Registries};
use agent_image::store::{Image, ImageStore};
use clap::Subcommand;

use super::DataDir;
use crate::failure::Failure;

/// Where mirrors and credentials are looked for unless a flag says otherwise.
const REGISTRIES: &str = "/etc/gantry/registries.yaml";

/// What can be done with images.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Fetch an image from its registry.
    Pull(pull::Args),
    /// Bring in images from an OCI layout (directory or tar) or a docker-archive.
    Import {
        /// The directory or file.
        source: PathBuf,
        /// Name for the image, where the source holds one image.
        #[arg(long, value_name = "REFERENCE")]
        name: Option<String>,
        #[command(flatten)]
        data: DataDir,
    },
    /// Write an image to a file, as an OCI layout in a tar.
    Export {
        /// Name, digest or image ID.
        image: String,
        /// The file to write; `-` for standard output.
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
        #[command(flatten)]
        data: DataDir,
    },
    /// Show the images of this machine.
    #[command(alias = "ls")]
    List {
        #[command(flatten)]
        data: DataDir,
    },
    /// Show one image and its configuration, as JSON.
    Inspect {
        /// Name, digest or image ID.
        image: String,
        #[command(flatten)]
        data: DataDir,
    },
    /// Forget images and delete what nothing needs any more.
    #[command(alias = "rm")]
    Remove {
        /// Names, digests or image IDs.
        #[arg(required = true)]
        images: Vec<String>,
        #[command(flatten)]
        data: DataDir,
    },
    /// Forget every image that was pulled and that no container uses.
    Prune {
        #[command(flatten)]
        data: DataDir,
    },
}

/// Which file tells of mirrors, credentials and trust.
#[derive(Debug, clap::Args)]
pub(crate) struct RegistriesFile {
    /// Mirrors, credentials and trust of registries, as k3s has the file; by default /etc/gantry/registries.yaml, if it is there.
    #[arg(long, value_name = "FILE")]
    registries: Option<PathBuf>,
}

impl RegistriesFile {
    /// Reads the file. One that was named must be there.
    pub(crate) fn load(&self) -> Result<Registries, ConfigError> {
        match &self.registries {
            Some(path) => Registries::load(path),
            None => Registries::load_if_there(Path::new(REGISTRIES)),
        }
    }
}

fn open(data: &DataDir) -> Result<ImageStore, Failure> {
    std::fs::create_dir_all(&data.data_dir)?;
    crate::state_version::check(&data.data_dir)?;
    Ok(ImageStore::open(&Instance::of(&data.data_dir)?.image_dir())?)
}

fn find(store: &ImageStore, image: &str) -> Result<Image, Failure> {
    store.find(image)?.ok_or_else(|| Failure::error(format!("no image {image:?}")))
}

pub(crate) fn run(verb: Verb) -> Result<ExitCode, Failure> {
    match verb {
        Verb::Pull(args) => pull::run(&args)?,
        Verb::Import { source, name, data } => {
            for image in open(&data)?.import(&source, name.as_deref())? {
                println!("{} {}", image.name, image.config);
            }
        }
        Verb::Export { image, output, data } => {
            let store = open(&data)?;
            let image = find(&store, &image)?;
            match output.as_os_str() == "-" {
                true => store.export(&image, std::io::stdout().lock())?,
                false => store.export(&image, std::io::BufWriter::new(std::fs::File::create(&output)?))?,
            }
        }
        Verb::List { data } => print!("{}", shown::list(open(&data)?.list()?)),
        Verb::Inspect { image, data } => {
            let store = open(&data)?;
            let image = find(&store, &image)?;
            let config = serde_json::to_value(store.config(&image)?)?;
            let shown = serde_json::json!({"image": image, "id": image.id(), "config": config});
            println!("{}", serde_json::to_string_pretty(&shown)?);
        }
        Verb::Remove { images, data } => {
            let store = open(&data)?;
            for image in images {
                store.remove(&image)?;
                println!("{image} removed");
            }
        }
        Verb::Prune { data } => {
            let (images, freed) = open(&data)?.prune()?;
            images.iter().for_each(|image| println!("{image} removed"));
            println!("{} freed", shown::size(freed));
        }
    }
    Ok(ExitCode::SUCCESS)
}
