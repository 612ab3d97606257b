//! Builds an image and prints where it lies: `cargo run -p guest-images --example images -- NAME`.

fn main() -> Result<(), guest_images::Error> {
    let store = guest_images::Store::open(None)?;
    let progress = guest_images::progress::for_stderr();
    for name in std::env::args().skip(1) {
        let image = store.ensure(&name, &*progress)?;
        println!("{}\n{}\n{}", image.kernel.display(), image.initrd.display(), image.cmdline);
    }
    Ok(())
}
