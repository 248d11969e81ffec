//! Every field of a manifest is compared with the [table](super::fields) of supported ones.

use serde_json::Value;

use super::{
    IgnoredField, SpecError,
    errors::Problems,
    fields,
    parse::describe,
    schema::{Schema, Shape},
};

/// Notes every field that is refused, is missing, or holds something of another type, and takes
/// those out, with those that are ignored. Null is absence, as in Kubernetes.
pub(super) fn object(value: &mut Value, schema: &'static Schema, path: &str, problems: &mut Problems) {
    let Value::Object(fields) = value else {
        problems.add(SpecError::invalid(
            path,
            format!("is {}, and an object is wanted", describe(value)),
        ));
        *value = Value::Object(serde_json::Map::new());
        return;
    };
    fields.retain(|key, value| {
        if value.is_null() && (schema.known)().contains(&key.as_str()) {
            return false;
        }
        let path = join(path, key);
        match schema.supported.iter().find(|(name, _)| name == key) {
            Some((_, shape)) => field(value, shape, &path, problems),
            None => {
                match schema.ignored.iter().find(|(name, _)| name == key) {
                    // What says nothing, as `kubectl run --dry-run` writes it, is not worth a word.
                    Some(_) if is_empty(value) => {}
                    Some((_, why)) => problems.ignored.push(IgnoredField::new(path, *why)),
                    None => problems.add(refusal(path, key, schema, problems.is_full())),
                }
                false
            }
        }
    });
    for name in schema.required.iter().filter(|name| !fields.contains_key(**name)) {
        problems.add(SpecError::invalid(join(path, name), "is missing"));
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Whether the value is of the type; what is in it is checked, too.
fn field(value: &mut Value, shape: &Shape, path: &str, problems: &mut Problems) -> bool {
    let wrong = match shape {
        Shape::Object(schema) => {
            object(value, schema, path, problems);
            None
        }
        Shape::List(schema) => each(value, path, "a list", |item, path| {
            object(item, schema, path, problems);
        }),
        Shape::Texts => each(value, path, "a list", |item, path| {
            if let Some(reason) = not_text(item) {
                problems.add(SpecError::invalid(path, reason));
                *item = "".into();
            }
        }),
        Shape::Wholes => each(value, path, "a list", |item, path| {
            if let Some(reason) = not_whole(item) {
                problems.add(SpecError::invalid(path, reason));
                *item = 0.into();
            }
        }),
        Shape::Names => names(value, path, problems, not_text),
        Shape::Secrets => names(value, path, problems, |value| {
            (!value.is_string())
                .then(|| format!("is {}, and text is wanted: put it in quotes", describe(value)))
        }),
        Shape::Text => not_text(value),
        Shape::Whole => not_whole(value),
        Shape::Port => not_whole(value).or_else(|| {
            let fits = value.as_i64().is_some_and(|number| i32::try_from(number).is_ok());
            (!fits).then(|| format!("{value} is not between 1 and 65535"))
        }),
        Shape::Mode => not_whole(value).or_else(|| {
            let fits = value.as_i64().is_some_and(|mode| (0..=0o777).contains(&mode));
            (!fits).then(|| {
                format!("{value} is not between 0 and 511, which is 0777: write permissions as 0644")
            })
        }),
        Shape::PortOrName => {
            let fits = value.is_string() || value.as_i64().is_some_and(|n| i32::try_from(n).is_ok());
            (!fits).then(|| format!("is {}, and a port's number or name is wanted", described(value)))
        }
        Shape::Flag => (!value.is_boolean()).then(|| {
            format!(
                "is {}, and true or false is wanted, without quotes",
                described(value)
            )
        }),
        Shape::Quantity => {
            let fits = value.is_string() || value.is_number();
            (!fits).then(|| {
                format!(
                    "is {}, and a quantity is wanted: write 500m, 0.5, 64Mi or the like",
                    describe(value)
                )
            })
        }
    };
    match wrong {
        Some(reason) => {
            problems.add(SpecError::invalid(path, reason));
            false
        }
        None => true,
    }
}

/// Does it to each item of a list, or says what the value is instead.
fn each(
    value: &mut Value,
    path: &str,
    wanted: &str,
    mut check: impl FnMut(&mut Value, &str),
) -> Option<String> {
    if let Value::Array(items) = value {
        for (i, item) in items.iter_mut().enumerate() {
            check(item, &format!("{path}[{i}]"));
        }
        return None;
    }
    let example = match value {
        Value::String(text) if text.chars().count() <= LONGEST => format!(": write [{text:?}]"),
        _ => String::new(),
    };
    Some(format!("is {}, and {wanted} is wanted{example}", describe(value)))
}

/// An object of texts.
fn names(
    value: &mut Value,
    path: &str,
    problems: &mut Problems,
    not_text: fn(&Value) -> Option<String>,
) -> Option<String> {
    let Value::Object(fields) = value else {
        return Some(format!("is {}, and an object is wanted", describe(value)));
    };
    fields.retain(|key, value| match not_text(value) {
        Some(reason) => {
            problems.add(SpecError::invalid(join(path, key), reason));
            false
        }
        None => true,
    });
    None
}

fn not_text(value: &Value) -> Option<String> {
    match value {
        Value::String(_) => None,
        // It need not be written as it is read: yes is true, 0x10 is 16.
        Value::Number(_) | Value::Bool(_) => Some(format!(
            "is {}, and text is wanted: put it in quotes",
            described(value)
        )),
        _ => Some(format!("is {}, and text is wanted", describe(value))),
    }
}

fn not_whole(value: &Value) -> Option<String> {
    if value.as_i64().is_some() {
        return None;
    }
    let number = value.as_str().and_then(|text| text.parse::<i64>().ok());
    Some(match number {
        Some(number) => format!(
            "is {}, and a number is wanted: write {number}, without quotes",
            described(value)
        ),
        None => format!("is {}, and a whole number is wanted", described(value)),
    })
}

/// The longest value that messages repeat, in characters.
const LONGEST: usize = 40;

/// What it is, and where that is short, its value.
fn described(value: &Value) -> String {
    match value {
        Value::String(text) if text.chars().count() <= LONGEST => format!("the text {text:?}"),
        Value::Number(number) => format!("the number {number}"),
        Value::Bool(flag) => format!("the boolean {flag}"),
        other => describe(other).into(),
    }
}

/// Why a field is not taken; without a look for the one that was meant where nobody will see it.
fn refusal(path: String, key: &str, schema: &'static Schema, unseen: bool) -> SpecError {
    if let Some((_, why)) = schema.refused.iter().find(|(name, _)| *name == key) {
        return SpecError::unsupported(path, *why);
    }
    if key.contains('/') && fields::is_of_amounts(schema) {
        let why = "there is no such device; devices are hostPath volumes of the type CharDevice";
        return SpecError::unsupported(path, why);
    }
    if unseen || (schema.known)().contains(&key) {
        return SpecError::NotSupported { path, why: None };
    }
    let others = schema.ignored.iter().map(|(name, _)| name);
    let names = schema.supported.iter().map(|(name, _)| name).chain(others);
    let near = names.map(|name| {
        (
            strsim::jaro_winkler(&key.to_lowercase(), &name.to_lowercase()),
            *name,
        )
    });
    let suggestion = near
        .filter(|(similarity, _)| *similarity > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    SpecError::UnknownField {
        path,
        suggestion: suggestion.map(|(_, name)| name.to_owned()),
    }
}

/// `path.key`; the key is the manifest's, so it may be anything.
pub(super) fn join(path: &str, key: &str) -> String {
    let plain = !key.is_empty()
        && key.len() <= 64
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
    let key = if plain {
        key.to_owned()
    } else {
        format!("{:?}", key.chars().take(64).collect::<String>())
    };
    if path.is_empty() {
        key
    } else {
        format!("{path}.{key}")
    }
}
