//! `staleline images`.

use super::later::refuse;
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use guest_images::Store;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;

/// Digits of a hash that lists show.
const SHORT_HASH: usize = 12;

#[derive(Debug, Args)]
pub(super) struct ImagesArguments {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the images and whether they are built.
    List {
        /// Only this one.
        name: Option<String>,
    },
    /// Build an image, or all of them.
    Build { name: Option<String> },
    /// Print the folder of a built image.
    Path { name: String },
    /// Remove an image, or all of them and what was downloaded for them.
    Clean { name: Option<String> },
    /// Write an image to a file.
    Export { name: Option<String>, file: Option<PathBuf> },
    /// Take an image from a file.
    Import { name: Option<String>, file: Option<PathBuf> },
    /// Print the content hash of an image's recipe, or of all.
    Hash { name: Option<String> },
}

/// Does what is asked and returns the exit status.
pub(super) fn run(arguments: &ImagesArguments) -> Result<u8> {
    let store = Store::open(None)?;
    let names = |name: &Option<String>| -> Result<Vec<String>> {
        Ok(match name {
            Some(name) => vec![store.recipe(name)?.name.clone()],
            None => store.recipes().iter().map(|recipe| recipe.name.clone()).collect(),
        })
    };
    let mut text = String::new();
    match arguments.action.as_ref().unwrap_or(&Action::List { name: None }) {
        Action::List { name } => {
            for name in names(name)? {
                let recipe = store.recipe(&name)?;
                let state = match store.path(&name)? {
                    Some(_) => "built".to_owned(),
                    None => format!("not built (about {} min)", recipe.estimate.minutes),
                };
                let hash = recipe.hash()?;
                let short = hash.get(..SHORT_HASH).unwrap_or(&hash);
                writeln!(text, "{name:20} {short:SHORT_HASH$} {state:24} {}", recipe.summary)?;
            }
        }
        Action::Build { name } => {
            for name in names(name)? {
                let progress = guest_images::progress::for_stderr();
                let image = store.ensure(&name, progress.as_ref())?;
                writeln!(text, "{}", image.folder.display())?;
            }
        }
        Action::Path { name } => match store.path(name)? {
            Some(image) => writeln!(text, "{}", image.folder.display())?,
            None => bail!("image {name} is not built yet: staleline images build {name}"),
        },
        Action::Clean { name } => store.clean(name.as_deref())?,
        Action::Export { .. } => refuse("images export", true)?,
        Action::Import { .. } => refuse("images import", true)?,
        Action::Hash { name } => match name {
            Some(name) => writeln!(text, "{}", store.hash(name)?)?,
            None => {
                for name in names(&None)? {
                    writeln!(text, "{} {name}", store.hash(&name)?)?;
                }
            }
        },
    }
    io::stdout().write_all(text.as_bytes())?;
    Ok(0)
}
