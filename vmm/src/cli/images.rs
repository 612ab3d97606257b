//! `staleline images`.

use crate::session::STATUS_ERROR;
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
    /// List the images and whether they are built, can be built, or are unavailable because the mirror lacks a package.
    List {
        /// Only this one.
        name: Option<String>,
    },
    /// Build an image, or all of them. What the mirror cannot serve is counted as unavailable, and the exit status is 125.
    Build { name: Option<String> },
    /// Print the folder of a built image.
    Path { name: String },
    /// Remove an image, or all of them and what was downloaded for them.
    Clean { name: Option<String> },
    /// Write a built image to a file, for hosts without a network and for CI caches (`images hash` is their key). Prints the
    /// file's name.
    Export {
        name: String,
        /// By default the image's name and hash, with `.tar.zst`, in the current folder.
        file: Option<PathBuf>,
    },
    /// Take an image from a file that `images export` has written; prints its folder.
    Import { file: PathBuf },
    /// Print the tree that out-of-tree modules are built against for an image's kernel (`make -C TREE M=FOLDER modules`).
    Tree { name: String },
    /// Build the out-of-tree modules of a folder with a kbuild Makefile for an image's kernel.
    Module {
        /// The folder; it is left as it is.
        folder: PathBuf,
        /// The image whose kernel they are for.
        #[arg(long, value_name = "IMAGE")]
        kernel: String,
        /// Where the .ko files go.
        #[arg(long, value_name = "DIR", default_value = ".")]
        output: PathBuf,
    },
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
            let mut missing = 0;
            for name in names(name)? {
                let recipe = store.recipe(&name)?;
                let (state, reason) = match (store.path(&name)?, store.unavailable(&name)?) {
                    (Some(_), _) => ("built".to_owned(), None),
                    (None, Some(reason)) => ("unavailable".to_owned(), Some(reason)),
                    (None, None) => (format!("not built (about {} min)", recipe.estimate.minutes), None),
                };
                let hash = recipe.hash()?;
                let short = hash.get(..SHORT_HASH).unwrap_or(&hash);
                writeln!(text, "{name:20} {short:SHORT_HASH$} {state:24} {}", recipe.summary)?;
                if let Some(reason) = reason {
                    missing += 1;
                    writeln!(text, "    {reason}")?;
                }
            }
            if missing > 0 {
                writeln!(text, "{missing} unavailable when last tried")?;
            }
        }
        Action::Build { name } => return build(&store, &names(name)?),
        Action::Path { name } => match store.path(name)? {
            Some(image) => writeln!(text, "{}", image.folder.display())?,
            None => bail!("image {name} is not built yet: staleline images build {name}"),
        },
        Action::Clean { name } => store.clean(name.as_deref())?,
        Action::Export { name, file } => {
            let hash = store.hash(name)?;
            let short = hash.get(..SHORT_HASH).unwrap_or(&hash);
            let file = file.clone().unwrap_or_else(|| format!("{name}-{short}.tar.zst").into());
            store.export(name, &file)?;
            writeln!(text, "{}", file.display())?;
        }
        Action::Import { file } => {
            let progress = guest_images::progress::for_stderr();
            writeln!(text, "{}", store.import(file, progress.as_ref())?.folder.display())?;
        }
        Action::Tree { name } => {
            let progress = guest_images::progress::for_stderr();
            writeln!(text, "{}", store.module_tree(name, progress.as_ref())?.display())?;
        }
        Action::Module { folder, kernel, output } => {
            let progress = guest_images::progress::for_stderr();
            for module in store.build_module(kernel, folder, output, progress.as_ref())? {
                writeln!(text, "{}", module.display())?;
            }
        }
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

/// Builds the images one after the other and prints their folders. One that the mirror cannot serve does not keep the others
/// from being built; it is counted, and the exit status says that not all is there.
fn build(store: &Store, names: &[String]) -> Result<u8> {
    let mut unavailable = 0;
    for name in names {
        let progress = guest_images::progress::for_stderr();
        match store.ensure(name, progress.as_ref()) {
            Ok(image) => writeln!(io::stdout(), "{}", image.folder.display())?,
            Err(error) if error.is_unavailable() => {
                unavailable += 1;
                eprintln!("staleline: image {name}: {error}");
            }
            Err(error) => return Err(error.into()),
        }
    }
    if unavailable == 0 {
        return Ok(0);
    }
    eprintln!("staleline: {} images built, {unavailable} unavailable", names.len() - unavailable);
    Ok(STATUS_ERROR)
}
