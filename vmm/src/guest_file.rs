//! Files of the host that a guest is given: `HOST[:GUEST]`.

use std::path::PathBuf;

/// Parses `HOST[:GUEST]` into the host's path and the guest's, by default `/` and the name. A colon in the host's path needs the
/// guest's path to be given as well.
///
/// # Errors
/// A message for people.
pub fn parse_file(text: &str) -> Result<(PathBuf, String), String> {
    let (host, guest) = match text.rsplit_once(':') {
        Some((host, guest)) if guest.starts_with('/') => (PathBuf::from(host), guest.to_owned()),
        Some(_) => return Err("the guest's path begins with /".into()),
        None => {
            let host = PathBuf::from(text);
            let name = host.file_name().ok_or("name the guest's path: HOST:GUEST")?;
            let guest = format!("/{}", name.to_string_lossy());
            (host, guest)
        }
    };
    if host.as_os_str().is_empty() {
        return Err("name the host's file: HOST:GUEST".into());
    }
    Ok((host, guest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_path_is_the_name_unless_told_otherwise() {
        let parsed =
            |text: &str| parse_file(text).map(|(host, guest)| (host.to_string_lossy().into_owned(), guest));
        let of = |host: &str, guest: &str| Ok((host.to_owned(), guest.to_owned()));
        assert_eq!(parsed("a/b"), of("a/b", "/b"));
        assert_eq!(parsed("a:/c/d"), of("a", "/c/d"));
        assert_eq!(parsed("a:b:/c"), of("a:b", "/c"));
        for bad in ["", "..", "a:b", ":/c"] {
            assert!(parse_file(bad).is_err(), "{bad}");
        }
    }
}
