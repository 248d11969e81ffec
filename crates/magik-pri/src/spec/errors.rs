//! What is wrong with a manifest: one mistake, and all of them.

use std::fmt;

use super::{IgnoredField, Location, order::Order};
use crate::limits::{MAX_SPEC_ERRORS, MAX_SPEC_SIZE};

/// Why a text is no pod that can be run. One line, naming the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The text is larger than [`MAX_SPEC_SIZE`].
    #[error("the manifest has {0} bytes, at most {MAX_SPEC_SIZE} are read")]
    TooLarge(usize),
    /// The text is not YAML, or not JSON.
    #[error("not valid {format}: {reason}")]
    Syntax {
        /// `YAML` or `JSON`.
        format: &'static str,
        /// What the parser said, with line and column.
        reason: String,
    },
    /// The text is valid, and not exactly one v1 Pod.
    #[error("not a pod: {0}")]
    NotAPod(String),
    /// A field that Kubernetes does not have.
    #[error("{path}: unknown field{}", hint(suggestion.as_deref()))]
    UnknownField {
        /// Where, e.g. `spec.containers[1].imge`.
        path: String,
        /// The field that was perhaps meant.
        suggestion: Option<String>,
    },
    /// A field, or a value of a field, that Kubernetes has and this does not.
    #[error("{path}: not supported: {}", advice(why.as_deref()))]
    NotSupported {
        /// Where.
        path: String,
        /// Why, and what to do instead.
        why: Option<String>,
    },
    /// A value that is wrong.
    #[error("{path}: {reason}")]
    Invalid {
        /// Where.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

fn hint(suggestion: Option<&str>) -> String {
    match suggestion {
        Some(name) => format!(", did you mean {name}?"),
        None => ": a v1 Pod has no such field, remove it".into(),
    }
}

const fn advice(why: Option<&str>) -> &str {
    match why {
        Some(why) => why,
        None => "remove it",
    }
}

/// The reason with its middle left out, where it repeats a long value.
fn short(reason: String) -> String {
    const START: usize = 200;
    const END: usize = 150;
    let length = reason.chars().count();
    if length <= START + END {
        return reason;
    }
    let start = reason.chars().take(START).chain(['…']);
    start.chain(reason.chars().skip(length - END)).collect()
}

impl SpecError {
    pub(crate) fn invalid(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid {
            path: path.into(),
            reason: short(reason.into()),
        }
    }

    pub(crate) fn unsupported(path: impl Into<String>, why: impl Into<String>) -> Self {
        Self::NotSupported {
            path: path.into(),
            why: Some(short(why.into())),
        }
    }

    /// The field, e.g. `spec.containers[1].image`; `None`: it is about the whole text.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::UnknownField { path, .. }
            | Self::NotSupported { path, .. }
            | Self::Invalid { path, .. } => Some(path),
            Self::TooLarge(_) | Self::Syntax { .. } | Self::NotAPod(_) => None,
        }
    }

    /// What is wrong and what to do, without the field.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::UnknownField { suggestion, .. } => format!("unknown field{}", hint(suggestion.as_deref())),
            Self::NotSupported { why, .. } => format!("not supported: {}", advice(why.as_deref())),
            Self::Invalid { reason, .. } => reason.clone(),
            other => other.to_string(),
        }
    }
}

/// All that is wrong with a manifest, in the order in which it stands there; at least one mistake.
///
/// Of a manifest with very many, [`MAX_SPEC_ERRORS`] are named and the others counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecErrors {
    /// Not empty.
    errors: Vec<Mistake>,
    more: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mistake {
    error: SpecError,
    location: Option<Location>,
}

impl SpecErrors {
    /// The mistakes, at least one and at most [`MAX_SPEC_ERRORS`].
    #[must_use]
    pub fn errors(&self) -> Vec<&SpecError> {
        self.located().map(|(_, error)| error).collect()
    }

    /// The same, each with where its field stands in the text, or what the field is missing in. Of what
    /// was not read from a text that is not known.
    pub fn located(&self) -> impl Iterator<Item = (Option<Location>, &SpecError)> {
        self.errors
            .iter()
            .map(|mistake| (mistake.location, &mistake.error))
    }

    /// How many others there are.
    #[must_use]
    pub const fn more(&self) -> usize {
        self.more
    }
}

impl SpecErrors {
    /// The same, each with this before its field.
    pub(super) fn within(mut self, what: &str) -> Self {
        for mistake in &mut self.errors {
            match &mut mistake.error {
                SpecError::UnknownField { path, .. }
                | SpecError::NotSupported { path, .. }
                | SpecError::Invalid { path, .. }
                    if path.is_empty() =>
                {
                    what.trim_end_matches('.').clone_into(path);
                }
                SpecError::UnknownField { path, .. }
                | SpecError::NotSupported { path, .. }
                | SpecError::Invalid { path, .. } => path.insert_str(0, what),
                SpecError::TooLarge(_) | SpecError::Syntax { .. } | SpecError::NotAPod(_) => {}
            }
        }
        self
    }

    /// Those of several documents, in this order; the list is not empty.
    pub(super) fn together(list: Vec<Self>) -> Self {
        let more: usize = list.iter().map(|errors| errors.more).sum();
        let mut errors: Vec<Mistake> = list.into_iter().flat_map(|list| list.errors).collect();
        let over = errors.len().saturating_sub(MAX_SPEC_ERRORS);
        errors.truncate(MAX_SPEC_ERRORS);
        Self {
            errors,
            more: more + over,
        }
    }
}

impl From<SpecError> for SpecErrors {
    fn from(error: SpecError) -> Self {
        let mistake = Mistake {
            error,
            location: None,
        };
        Self {
            errors: vec![mistake],
            more: 0,
        }
    }
}

/// One line, however many there are.
impl fmt::Display for SpecErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (_, error)) in self.located().enumerate() {
            let between = if i == 0 { "" } else { "; " };
            write!(f, "{between}{error}")?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for SpecErrors {}

/// Mistakes as they are found.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    found: Vec<SpecError>,
    /// Fields of which enough was said: what follows from a mistake is none of its own.
    covered: Vec<String>,
    more: usize,
    /// What is no mistake, and changes nothing.
    pub(super) ignored: Vec<IgnoredField>,
}

/// How many are kept until it is known which stand first; a larger manifest of mistakes is not
/// worth the memory.
const KEPT: usize = 10 * MAX_SPEC_ERRORS;

impl Problems {
    /// Notes a mistake, if it is not a consequence of one that was noted.
    pub(crate) fn add(&mut self, error: impl Into<SpecError>) {
        let error = error.into();
        if self.is_full() {
            self.more += 1;
            return;
        }
        if let Some(path) = error.path() {
            if self.covers(path) {
                return;
            }
            self.covered.push(path.to_owned());
            if let SpecError::UnknownField {
                suggestion: Some(meant),
                ..
            } = &error
            {
                let parent = path.rfind('.').map_or("", |dot| &path[..=dot]);
                self.covered.push(format!("{parent}{meant}"));
            }
        }
        self.found.push(error);
    }

    /// Notes what is wrong; in its place stands something that nobody will see.
    pub(crate) fn or_default<T: Default>(&mut self, result: Result<T, SpecError>) -> T {
        self.ok(result).unwrap_or_default()
    }

    /// Notes what is wrong.
    pub(crate) fn ok<T>(&mut self, result: Result<T, SpecError>) -> Option<T> {
        result.map_err(|error| self.add(error)).ok()
    }

    /// Whether a mistake of the field, or of what it is in, was noted.
    pub(crate) fn covers(&self, path: &str) -> bool {
        let within = |rest: &str| rest.is_empty() || rest.starts_with(['.', '[']);
        self.covered
            .iter()
            .any(|known| path.strip_prefix(known.as_str()).is_some_and(within))
    }

    /// Whether a mistake of what is in the field was noted.
    pub(super) fn has_within(&self, path: &str) -> bool {
        let within = |known: &String| {
            known
                .strip_prefix(path)
                .is_some_and(|rest| rest.starts_with(['.', '[']))
        };
        self.covered.iter().any(within)
    }

    /// Whether nothing is wrong so far.
    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Whether others are only counted.
    pub(crate) fn is_full(&self) -> bool {
        self.found.len() >= KEPT
    }

    /// The value and what of it changes nothing, if nothing is wrong. There is no value only if
    /// something is.
    pub(super) fn none_or<T>(
        self,
        value: Option<T>,
        order: impl FnOnce() -> Order,
    ) -> Result<(T, Vec<IgnoredField>), SpecErrors> {
        match value {
            Some(value) if self.found.is_empty() => Ok((value, self.ignored)),
            _ => Err(self.sorted(order)),
        }
    }

    fn sorted(self, order: impl FnOnce() -> Order) -> SpecErrors {
        let order = order();
        let found = self.found.into_iter().map(|error| {
            let position = error.path().map(|path| order.position(path));
            let (numbers, location) = position.map_or((None, None), |at| (Some(at.numbers), at.location));
            (numbers, Mistake { error, location })
        });
        let mut found: Vec<_> = found.collect();
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        let more = self.more + found.len().saturating_sub(MAX_SPEC_ERRORS);
        let errors = found.into_iter().take(MAX_SPEC_ERRORS);
        SpecErrors {
            errors: errors.map(|(_, mistake)| mistake).collect(),
            more,
        }
    }

    /// Nothing, if nothing is wrong; otherwise all, in the order of finding.
    #[cfg_attr(
        not(any(feature = "krun", feature = "wasm")),
        allow(dead_code, reason = "native pods can have all that a manifest can say")
    )]
    pub(crate) fn finish(self) -> Result<(), SpecErrors> {
        self.none_or(Some(()), Order::default).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_from_a_mistake_is_not_said() {
        let mut problems = Problems::default();
        problems.add(SpecError::UnknownField {
            path: "spec.contianers".into(),
            suggestion: Some("containers".into()),
        });
        problems.add(SpecError::invalid("spec.volumes", "x"));
        for consequence in ["spec.containers", "spec.containers[0].name", "spec.volumes[3]"] {
            problems.add(SpecError::invalid(consequence, "x"));
        }
        problems.add(SpecError::invalid("spec.volumesOther", "x"));
        let errors = problems.finish().unwrap_err();
        assert_eq!(errors.errors().len(), 3, "{errors}");
    }
}
