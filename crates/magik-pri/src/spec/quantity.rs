//! Kubernetes quantities: `500m`, `0.5`, `64Mi`, `1e3`.

/// Reads a quantity in thousandths, rounded up, as Kubernetes rounds.
///
/// # Errors
/// It is none, negative, or too large.
pub fn parse_milli(text: &str) -> Result<u64, String> {
    let invalid = || {
        format!(
            "{:?} is no quantity: write 500m, 0.5, 64Mi or the like",
            text.chars().take(64).collect::<String>()
        )
    };
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    if unsigned.starts_with('-') {
        return Err(format!("{text} is negative"));
    }
    let end = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(invalid());
    }
    let too_large = || format!("{text} is too large");
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    if whole.len() + fraction.len() > 24 {
        return Err(format!(
            "{} has too many digits",
            text.chars().take(64).collect::<String>()
        ));
    }
    let digits: u128 = format!("0{whole}{fraction}").parse().map_err(|_| invalid())?;
    // value in thousandths = digits * multiplier / divisor
    let (multiplier, exponent): (u128, i32) = match suffix {
        "" => (1, 0),
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or_else(invalid)?;
            (
                1,
                exponent
                    .parse()
                    .ok()
                    .filter(|e| (-24..=24).contains(e))
                    .ok_or_else(invalid)?,
            )
        }
    };
    let power = |n: u32| 10_u128.checked_pow(n).ok_or_else(too_large);
    let exponent = exponent + 3 - i32::try_from(fraction.len()).map_err(|_| invalid())?;
    let scaled = digits.checked_mul(multiplier).ok_or_else(too_large)?;
    let milli = if exponent >= 0 {
        scaled
            .checked_mul(power(exponent.unsigned_abs())?)
            .ok_or_else(too_large)?
    } else {
        scaled.div_ceil(power(exponent.unsigned_abs())?)
    };
    u64::try_from(milli).map_err(|_| too_large())
}

/// Reads a Kubernetes quantity that is a whole number, such as bytes (`64Mi`, `2G`), rounded up.
///
/// # Errors
/// What is wrong with it, and how it is written.
pub fn parse_whole(text: &str) -> Result<u64, String> {
    parse_milli(text).map(|milli| milli.div_ceil(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_kubernetes_documents() {
        let cases = [
            ("0", 0),
            ("1", 1000),
            ("500m", 500),
            ("0.5", 500),
            (".5", 500),
            ("5.", 5000),
            ("+2", 2000),
            ("100u", 1),
            ("1n", 1),
            ("0.1m", 1),
            ("1.5Ki", 1_536_000),
            ("1k", 1_000_000),
            ("1e3", 1_000_000),
            ("1E3", 1_000_000),
            ("1e-3", 1),
            ("12e-1", 1200),
            ("1.50", 1500),
            ("007", 7000),
        ];
        for (text, milli) in cases {
            assert_eq!(parse_milli(text), Ok(milli), "{text}");
        }
        assert_eq!(parse_whole("64Mi"), Ok(64 << 20));
        assert_eq!(parse_whole("129M"), Ok(129_000_000));
        assert_eq!(parse_whole("1.5Gi"), Ok(3 << 29));
        assert_eq!(parse_whole("0.5"), Ok(1));
        assert_eq!(parse_whole("123456789e-3"), Ok(123_457));
    }

    #[test]
    fn refuses_what_is_no_quantity() {
        for text in [
            "", ".", "m", "-1", "1.2.3", "1 Mi", "1MiB", "1mi", "Mi", "0x10", "1e", "1e99", "e3", "1K", "٣",
            "1_000",
        ] {
            assert!(parse_milli(text).is_err(), "{text}");
        }
        assert!(parse_milli("20Ei").unwrap_err().contains("too large"));
        assert!(
            parse_milli("999999999999999999999999E")
                .unwrap_err()
                .contains("too large")
        );
        assert!(parse_milli(&"9".repeat(1000)).unwrap_err().contains("digits"));
    }
}
