//! Where fields stand in a manifest: parsed values are sorted by name, and know nothing of lines.

use std::{cell::RefCell, collections::BTreeMap, fmt};

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
    pub(super) fn field(&self, name: &str) -> &Self {
        let Self::Map(fields) = self else {
            return &Self::Scalar;
        };
        let found = fields.iter().find(|(field, ..)| field == name);
        found.map_or(&Self::Scalar, |(_, _, order)| order)
    }

    /// What stands in a list that a field has.
    fn item(&self, name: &str, number: usize) -> &Self {
        match self.field(name) {
            Self::List(items) => items.get(number).map_or(&Self::Scalar, |(_, order)| order),
            _ => &Self::Scalar,
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

/// Where things stand in several texts, each of which is looked through once, and only if that is asked for.
#[derive(Debug)]
pub(super) struct Orders<'a> {
    /// Each with its name.
    pub(super) texts: &'a [(&'a str, &'a str)],
    /// By number of the text.
    known: RefCell<BTreeMap<usize, Vec<Order>>>,
}

impl<'a> Orders<'a> {
    pub(super) fn new(texts: &'a [(&'a str, &'a str)]) -> Self {
        Self {
            texts,
            known: RefCell::default(),
        }
    }

    /// That of a document: its number in the text, then those of the lists that it is in.
    pub(super) fn of(&self, text: usize, place: &[usize]) -> Order {
        let mut known = self.known.borrow_mut();
        let documents = known.entry(text).or_insert_with(|| {
            let text = self.texts.get(text).map(|(_, text)| *text);
            parse::documents(text.unwrap_or_default()).unwrap_or_default()
        });
        let Some((first, items)) = place.split_first() else {
            return Order::default();
        };
        let document = documents.get(*first).unwrap_or(&Order::Scalar);
        let found = items
            .iter()
            .fold(document, |list, number| list.item("items", *number));
        found.clone()
    }

    /// What a text is called.
    pub(super) fn name(&self, text: usize) -> &'a str {
        self.texts.get(text).map(|(name, _)| *name).unwrap_or_default()
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
