//! The names of Kubernetes objects.

/// Checks an RFC 1123 label: lower-case letters, digits and `-`, at most 63, with a letter or digit at both ends.
pub(crate) fn dns_label(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("must not be empty".into());
    }
    if text.len() > 63 {
        return Err(format!("has {} characters, at most 63 are allowed", text.len()));
    }
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !text.bytes().all(inner) || text.starts_with('-') || text.ends_with('-') {
        return Err(format!(
            "{text:?} may hold only lower-case letters, digits and '-', with a letter or digit at both ends"
        ));
    }
    Ok(())
}

/// Checks the name of a namespace: an RFC 1123 label.
///
/// # Errors
/// What is wrong with it.
pub fn check_namespace(text: &str) -> Result<(), String> {
    dns_label(text)
}

/// Checks an RFC 1123 subdomain: labels with dots between them, at most `max` bytes.
pub(crate) fn dns_subdomain(text: &str, max: usize) -> Result<(), String> {
    if text.is_empty() {
        return Err("must not be empty".into());
    }
    if text.len() > max {
        return Err(format!(
            "has {} characters, at most {max} are allowed",
            text.len()
        ));
    }
    if text.split('.').any(|label| dns_label(label).is_err()) {
        return Err(format!(
            "{text:?} may hold only lower-case letters, digits, '-' and '.', with a letter or digit at both ends and beside each dot"
        ));
    }
    Ok(())
}

/// Checks an IANA service name, as port names are: like a label, at most 15, with at least one letter, no `--`.
pub(super) fn port_name(text: &str) -> Result<(), String> {
    let letters = text.bytes().any(|b| b.is_ascii_lowercase());
    if dns_label(text).is_err() || text.len() > 15 || !letters || text.contains("--") {
        return Err(format!(
            "{:?} is no port name: at most 15 lower-case letters, digits and '-'",
            text.chars().take(64).collect::<String>()
        ));
    }
    Ok(())
}

/// Checks the key of a label or annotation: `[domain/]name`.
pub(super) fn qualified_key(key: &str) -> Result<(), String> {
    let (domain, name) = match key.split_once('/') {
        Some((domain, name)) => (Some(domain), name),
        None => (None, key),
    };
    domain.map_or(Ok(()), |domain| dns_subdomain(domain, 253))?;
    if name.is_empty() {
        return Err("the name must not be empty".into());
    }
    label_value(name)
}

/// Checks the value of a label: empty, or at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends.
pub(super) fn label_value(text: &str) -> Result<(), String> {
    let end = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if text.len() > 63
        || !text.bytes().all(inner)
        || !end(text.chars().next())
        || !end(text.chars().next_back())
    {
        return Err(format!(
            "{:?} may hold only letters, digits, '-', '_' and '.', at most 63, with a letter or digit at both ends",
            text.chars().take(80).collect::<String>()
        ));
    }
    Ok(())
}

/// Checks the name of an environment variable: printable ASCII without `=`.
pub(super) fn env_name(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("must not be empty".into());
    }
    if !text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        return Err(format!(
            "{text:?} may hold only printable ASCII characters, and no '='"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subdomains_at_their_bounds() {
        for good in ["a", "web-1", "0", &"x".repeat(63)] {
            assert!(dns_label(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a_b",
            "a.b",
            "a/b",
            "..",
            "ä",
            "a\n",
            &"x".repeat(64),
        ] {
            assert!(dns_label(bad).is_err(), "{bad}");
        }
        assert!(dns_subdomain("a.b-c.d", 253).is_ok() && dns_subdomain("abc", 3).is_ok());
        for bad in ["", ".", "..", "a..b", ".a", "a.", "a/b", "_init"] {
            assert!(dns_subdomain(bad, 253).is_err(), "{bad}");
        }
        assert!(dns_subdomain("abcd", 3).is_err());
    }

    #[test]
    fn other_names() {
        assert!(port_name("http").is_ok() && port_name("a-b").is_ok());
        assert!(
            port_name("80").is_err() && port_name("a--b").is_err() && port_name(&"x".repeat(16)).is_err()
        );
        assert!(qualified_key("app.kubernetes.io/name").is_ok() && qualified_key("A_b").is_ok());
        assert!(
            qualified_key("a/b/c").is_err() && qualified_key("a/").is_err() && qualified_key("").is_err()
        );
        assert!(label_value("").is_ok() && label_value("v1.2_x").is_ok() && label_value("-x").is_err());
        assert!(env_name("my.var-1").is_ok() && env_name("a=b").is_err() && env_name("a\0").is_err());
    }
}
