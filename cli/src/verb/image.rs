//! `gantry image`: the image store of this machine, also while the agent runs.

use std::path::PathBuf;
use std::process::ExitCode;

use agent::instance::Instance;
use agent_image::store::ImageStore;
use clap::Subcommand;

use super::DataDir;
use crate::failure::Failure;

/// What can be done with images.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
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
    /// Show the images of this machine.
    #[command(alias = "ls")]
    List {
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
}

fn open(data: &DataDir) -> Result<ImageStore, Failure> {
    std::fs::create_dir_all(&data.data_dir)?;
    Ok(ImageStore::open(&Instance::of(&data.data_dir)?.image_dir())?)
}

pub(crate) fn run(verb: Verb) -> Result<ExitCode, Failure> {
    match verb {
        Verb::Import { source, name, data } => {
            for image in open(&data)?.import(&source, name.as_deref())? {
                println!("{} {}", image.name, image.config);
            }
        }
        Verb::List { data } => {
            let rows = open(&data)?.list()?.into_iter().map(|image| {
                let (name, tag) = image.name.rsplit_once(':').unwrap_or((&image.name, ""));
                [name.to_owned(), tag.to_owned(), image.config.hex()[..12].to_owned(), size(image.size)]
            });
            print!("{}", table(&["IMAGE", "TAG", "IMAGE ID", "SIZE"], rows.collect()));
        }
        Verb::Remove { images, data } => {
            let store = open(&data)?;
            for image in images {
                store.remove(&image)?;
                println!("{image} removed");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Bytes with three digits, as `crictl` shows them.
fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    match value {
        value if unit == 0 || value >= 100.0 => format!("{value:.0}{}", units[unit]),
        value => format!("{value:.1}{}", units[unit]),
    }
}

/// Columns padded as kubectl pads them.
fn table<const N: usize>(head: &[&str; N], rows: Vec<[String; N]>) -> String {
    let all: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let widths: Vec<usize> = (0..N).map(|column| all.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
    all.iter()
        .map(|row| {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            format!("{}\n", cells.join("   ").trim_end())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_columns_are_readable() {
        assert_eq!(
            (size(999).as_str(), size(1_234_567).as_str(), size(123_456_789).as_str()),
            ("999B", "1.2MB", "123MB")
        );
        let text = table(&["A", "B"], vec![["long cell".into(), "x".into()]]);
        assert_eq!(text, "A           B\nlong cell   x\n");
    }
}
