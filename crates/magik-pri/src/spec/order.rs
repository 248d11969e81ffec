//! Where fields stand in a manifest: parsed values are sorted by name, and know nothing of lines.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;

use super::{parse, walk::join};

/// A place in the text of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Counted from 1.
    pub line: u64,
    /// In characters, counted from 1.
    pub column: u64,
}

impl Location {
    /// What a parser that does not know says as line 0.
    fn of<T>(value: &Spanned<T>) -> Option<Self> {
        let at = value.referenced;
        let known = at.line() > 0;
        known.then(|| Self {
            line: at.line(),
            column: at.column(),
        })
    }
}

/// `LINE:COLUMN`, as compilers write it.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// The names of a document's fields, in their order, each with where it stands.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    #[default]
    Scalar,
    List(Vec<(Option<Location>, Order)>),
    Map(Vec<(String, Option<Location>, Order)>),
}

/// Where something stands that a path names.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Position {
    /// Sorts as things stand: the number of each in the one around it. What is missing comes after all
    /// that is there.
    pub(super) numbers: Vec<usize>,
    /// Where it is, or what it is missing in.
    pub(super) location: Option<Location>,
}

impl Order {
    /// That of a document of a text in YAML or JSON.
    pub(super) fn of_text(text: &str, number: usize) -> Self {
        let all: Vec<Self> = parse::documents(text).unwrap_or_default();
        all.into_iter().nth(number).unwrap_or_default()
    }

    /// That of a value, which stands nowhere.
    pub(super) fn of_value(value: &Value) -> Self {
        match value {
            Value::Array(items) => {
                Self::List(items.iter().map(|item| (None, Self::of_value(item))).collect())
            }
            Value::Object(fields) => {
                let fields = fields.iter();
                Self::Map(
                    fields
                        .map(|(key, value)| (join("", key), None, Self::of_value(value)))
                        .collect(),
                )
            }
            _ => Self::Scalar,
        }
    }

    /// What a field has.
    pub(super) fn field(self, name: &str) -> Self {
        let Self::Map(fields) = self else {
            return Self::Scalar;
        };
        let found = fields.into_iter().find(|(field, ..)| field == name);
        found.map(|(_, _, order)| order).unwrap_or_default()
    }

    /// What stands in a list that a field has.
    pub(super) fn item(self, name: &str, number: usize) -> Self {
        match self.field(name) {
            Self::List(items) => {
                let item = items.into_iter().nth(number);
                item.map(|(_, order)| order).unwrap_or_default()
            }
            _ => Self::Scalar,
        }
    }

    /// Where a field stands.
    pub(super) fn position(&self, path: &str) -> Position {
        let mut position = Position::default();
        let (mut here, mut rest) = (self, path);
        loop {
            let step = match here {
                Self::Scalar => None,
                Self::List(items) => index(rest).and_then(|(number, after)| {
                    let (location, inner) = items.get(number)?;
                    Some((number, location, inner, after))
                }),
                Self::Map(fields) => field(fields, rest),
            };
            let Some((number, location, inner, after)) = step else {
                if !rest.is_empty() {
                    position.numbers.push(usize::MAX);
                }
                return position;
            };
            position.numbers.push(number);
            position.location = location.or(position.location);
            (here, rest) = (inner, after);
        }
    }
}

/// `[3]…`
fn index(path: &str) -> Option<(usize, &str)> {
    let (number, rest) = path.strip_prefix('[')?.split_once(']')?;
    Some((number.parse().ok()?, rest))
}

/// A step from something into what stands in it: its number, where it is, itself, and the rest of the path.
type Step<'a, 'p> = (usize, &'a Option<Location>, &'a Order, &'p str);

/// `name…` or `.name…`; of two that fit, the longer one is meant.
fn field<'a, 'p>(fields: &'a [(String, Option<Location>, Order)], path: &'p str) -> Option<Step<'a, 'p>> {
    let path = path.strip_prefix('.').unwrap_or(path);
    let mut best: Option<Step<'a, 'p>> = None;
    for (number, (name, location, order)) in fields.iter().enumerate() {
        let Some(rest) = path.strip_prefix(name.as_str()) else {
            continue;
        };
        let fits = rest.is_empty() || rest.starts_with(['.', '[']);
        if fits && best.is_none_or(|(.., other)| rest.len() < other.len()) {
            best = Some((number, location, order, rest));
        }
    }
    best
}

impl<'de> Deserialize<'de> for Order {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Order;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Order, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element::<Spanned<Order>>()? {
            items.push((Location::of(&item), item.value));
        }
        Ok(Order::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Order, A::Error> {
        let mut fields = Vec::new();
        while let Some((key, value)) = map.next_entry::<Spanned<String>, Order>()? {
            fields.push((join("", &key.value), Location::of(&key), value));
        }
        Ok(Order::Map(fields))
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Order, D::Error> {
        Order::deserialize(inner)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Order, D::Error> {
        Order::deserialize(inner)
    }

    fn visit_enum<A: serde::de::EnumAccess<'de>>(self, _: A) -> Result<Order, A::Error> {
        Ok(Order::Scalar)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Order, E> {
        Ok(Order::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Order, E> {
        Ok(Order::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Order, E> {
        Ok(Order::Scalar)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Order, E> {
        Ok(Order::Scalar)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Order, E> {
        Ok(Order::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Order, E> {
        Ok(Order::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Order, E> {
        Ok(Order::Scalar)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Order, E> {
        Ok(Order::Scalar)
    }

    fn visit_none<E>(self) -> Result<Order, E> {
        Ok(Order::Scalar)
    }

    fn visit_unit<E>(self) -> Result<Order, E> {
        Ok(Order::Scalar)
    }
}
