//! The sources of our kernel modules, for whoever runs without a checkout beside.

use include_dir::{Dir, include_dir};
use std::path::Path;

static SOURCES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/drivers");

/// Every file of `guest-images/drivers`: its path in there, and what is in it.
#[must_use]
pub fn driver_sources() -> Vec<(&'static Path, &'static [u8])> {
    let mut files = Vec::new();
    let mut folders = vec![&SOURCES];
    while let Some(folder) = folders.pop() {
        folders.extend(folder.dirs());
        files.extend(folder.files().map(|file| (file.path(), file.contents())));
    }
    files.sort_unstable();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_driver_is_there_with_its_makefile() {
        let files = driver_sources();
        for driver in ["dmalab", "kverbs"] {
            for name in ["Makefile", "main.c"] {
                let path = Path::new(driver).join(name);
                assert!(files.iter().any(|(file, text)| *file == path && !text.is_empty()), "{path:?}");
            }
        }
    }
}
