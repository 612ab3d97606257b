//! Tests that need an image.

use guest_images::{Image, Store};
use libtest_mimic::{Completion, Failed, Trial};

/// A test that needs an image, which is built first. If the mirror cannot serve it the test is "ignored, unavailable: …", and
/// `unavailable` hears of it.
pub fn trial(
    name: String,
    image: &'static str,
    unavailable: impl FnOnce(&'static str) + Send + 'static,
    test: impl FnOnce(&Image) -> Result<(), Failed> + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, move || {
        let store = Store::open(None)?;
        match store.ensure(image, guest_images::progress::for_stderr().as_ref()) {
            Ok(image) => test(&image).map(|()| Completion::Completed),
            Err(error) if error.is_unavailable() => {
                unavailable(image);
                Ok(Completion::ignored_with(error))
            }
            Err(error) => Err(error.into()),
        }
    })
}
