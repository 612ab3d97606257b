//! Options of the fixed command line whose time has not come: they are known, and refused by name.

use anyhow::{Result, bail};

/// Refuses `option` if it asks for something that this version cannot do.
pub(super) fn refuse(option: &str, asked: bool) -> Result<()> {
    if asked {
        bail!("{option}: not yet: this version of staleline cannot do it");
    }
    Ok(())
}
