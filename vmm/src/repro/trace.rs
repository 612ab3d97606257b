//! Call trace frames as Linux prints them, and looking for expected functions among them.

/// One frame: `ib_umem_get+0x254/0x380 [ib_uverbs]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Without the suffixes that compilers add to clones (`.isra.0`, `.constprop.0`, `.cold`).
    pub function: String,
    /// The module it is in; none for the kernel itself.
    pub module: Option<String>,
}

/// Reads one line of a trace, its log prefix gone. Frames marked `? ` are leftovers on the stack, not callers: none.
pub(super) fn frame(message: &str) -> Option<Frame> {
    let mut words = message.split_whitespace();
    let mut symbol = words.next()?;
    if symbol.starts_with("[<") && symbol.ends_with(">]") {
        symbol = words.next()?;
    }
    let module = match words.next() {
        None => None,
        // The module's build id may follow its name: `[mlx5_ib 0123abc]`.
        Some(word) => Some(word.strip_prefix('[')?.trim_end_matches(']').to_owned()),
    };
    let (name, offset) = symbol.rsplit_once('+')?;
    let (offset, size) = offset.split_once('/')?;
    (!name.is_empty() && is_hex(offset) && is_hex(size))
        .then(|| Frame { function: plain(name).to_owned(), module })
}

fn is_hex(text: &str) -> bool {
    text.strip_prefix("0x")
        .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// A function's name without what a compiler has appended.
fn plain(name: &str) -> &str {
    match name.split_once('.') {
        Some((start, _)) if !start.is_empty() => start,
        _ => name,
    }
}

/// For each expected function its place in `trace`, each after the one before; none if it does not come there.
pub(super) fn locate(expected: &[String], trace: &[Frame]) -> Vec<Option<usize>> {
    let mut from = 0;
    expected
        .iter()
        .map(|function| {
            let found = trace.iter().enumerate().skip(from).find(|(_, frame)| frame.function == *function);
            let place = found.map(|(place, _)| place);
            from = place.map_or(from, |place| place.saturating_add(1));
            place
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(text: &str) -> Option<String> {
        frame(text).map(|frame| frame.function)
    }

    #[test]
    fn frames_are_read_in_every_form() {
        let plain = Frame { function: "debug_dma_map_sg".into(), module: None };
        assert_eq!(frame("debug_dma_map_sg+0x1b4/0x390"), Some(plain));
        let in_module = Frame { function: "mlx5_ib_reg_user_mr".into(), module: Some("mlx5_ib".into()) };
        assert_eq!(frame("mlx5_ib_reg_user_mr+0x68/0x2a0 [mlx5_ib]"), Some(in_module.clone()));
        assert_eq!(frame("mlx5_ib_reg_user_mr.cold+0x68/0x2a0 [mlx5_ib 5d3f]"), Some(in_module));
        assert_eq!(function("[<ffffffff810a9ba0>] foo.isra.0+0x1/0x2").as_deref(), Some("foo"));
        for no_frame in
            ["", "? foo+0x1/0x2", "foo", "foo+1/2", "+0x1/0x2", "<TASK>", "foo+0x/0x2", "foo+0x1/0x2 x"]
        {
            assert_eq!(frame(no_frame), None, "{no_frame}");
        }
    }

    #[test]
    fn expected_functions_are_found_in_order_only() {
        let trace: Vec<Frame> =
            ["a", "x", "b", "c"].map(|name| Frame { function: name.into(), module: None }).to_vec();
        let expect =
            |names: &[&str]| locate(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>(), &trace);
        assert_eq!(expect(&["a", "b", "c"]), [Some(0), Some(2), Some(3)]);
        assert_eq!(expect(&["b", "a", "c"]), [Some(2), None, Some(3)]);
        assert_eq!(expect(&["a", "a"]), [Some(0), None]);
        assert_eq!(expect(&[]), []);
    }
}
