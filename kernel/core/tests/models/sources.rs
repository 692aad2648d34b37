//! The order of steps, as it stands in the kernel's sources.

/// The body of a function: from its name to the end of its block, by indentation.
pub fn body_of<'a>(source: &'a str, signature: &str) -> &'a str {
    let start = source.find(signature).unwrap_or_else(|| panic!("the sources have no `{signature}` any more"));
    let line = source[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let indent = source[line..].chars().take_while(|character| *character == ' ').count();
    let end = format!("\n{}}}\n", " ".repeat(indent));
    let length = source[start..].find(&end).unwrap_or_else(|| panic!("`{signature}` has no end"));
    &source[start..start + length]
}

/// The steps in the order in which their lines stand in `text`. Each fragment must be there once: a step that has gone, or that is there twice, is
/// a change that the model has to be told of.
pub fn in_order<S: Copy>(text: &str, steps: &[(&str, S)]) -> Vec<S> {
    let mut found: Vec<(usize, S)> = steps
        .iter()
        .map(|(fragment, step)| {
            let mut places = text.match_indices(fragment);
            let place = places.next().unwrap_or_else(|| panic!("no `{fragment}` in:\n{text}")).0;
            assert!(places.next().is_none(), "`{fragment}` is more than once in:\n{text}");
            (place, *step)
        })
        .collect();
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, step)| step).collect()
}
