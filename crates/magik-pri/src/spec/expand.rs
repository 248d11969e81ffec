//! `$(NAME)` in commands, arguments and environment values, as Kubernetes expands it.

/// Expands `$(NAME)` by `lookup`; `$$` is a dollar sign, and a reference that nothing defines stays as it is.
///
/// Returns `None` if the text would grow past `budget` bytes; `budget` is reduced by what was used.
pub(super) fn expand<'a>(
    text: &str,
    lookup: impl Fn(&str) -> Option<&'a str>,
    budget: &mut usize,
) -> Option<String> {
    let mut out = String::new();
    let mut push = |out: &mut String, piece: &str| {
        *budget = budget.checked_sub(piece.len())?;
        out.push_str(piece);
        Some(())
    };
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        push(&mut out, &rest[..at])?;
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('$') {
            push(&mut out, "$")?;
            rest = after;
        } else if let Some((name, after)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => push(&mut out, value)?,
                None => push(&mut out, &rest[at..at + name.len() + 3])?,
            }
            rest = after;
        } else {
            push(&mut out, "$")?;
            rest = after;
        }
    }
    push(&mut out, rest)?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> String {
        let lookup = |name: &str| match name {
            "A" => Some("1"),
            "B" => Some("$(A)"),
            "EMPTY" => Some(""),
            _ => None,
        };
        expand(text, lookup, &mut 1000).unwrap()
    }

    #[test]
    fn expands_as_kubernetes_does() {
        // The cases of k8s.io/kubernetes/third_party/forked/golang/expansion.
        for (text, result) in [
            ("", ""),
            ("plain", "plain"),
            ("$(A)", "1"),
            ("x$(A)y$(A)z", "x1y1z"),
            ("$(B)", "$(A)"),
            ("$(EMPTY)-", "-"),
            ("$(NONE)", "$(NONE)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$$$$(A)", "$$(A)"),
            ("$A", "$A"),
            ("$", "$"),
            ("cost: $5", "cost: $5"),
            ("$(A", "$(A"),
            ("$()", "$()"),
            ("$(A)$", "1$"),
            ("${A}", "${A}"),
            ("ä$(A)ö", "ä1ö"),
        ] {
            assert_eq!(expanded(text), result, "{text}");
        }
    }

    #[test]
    fn stops_at_its_budget() {
        let mut budget = 8;
        assert!(expand("$(X)$(X)", |_| Some("1234"), &mut budget).is_some());
        assert_eq!(budget, 0);
        assert!(expand("x", |_| None, &mut budget).is_none());
    }
}
