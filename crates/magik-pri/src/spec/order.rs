//! Where fields stand in a manifest: parsed values are sorted by name.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::walk::join;

/// The names of a document's fields, in their order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    #[default]
    Scalar,
    List(Vec<Order>),
    Map(Vec<(String, Order)>),
}

impl Order {
    /// What a field has.
    pub(super) fn field(self, name: &str) -> Self {
        let Self::Map(fields) = self else {
            return Self::Scalar;
        };
        let found = fields.into_iter().find(|(field, _)| field == name);
        found.map(|(_, order)| order).unwrap_or_default()
    }

    /// What stands in a list that a field has.
    pub(super) fn item(self, name: &str, number: usize) -> Self {
        match self.field(name) {
            Self::List(items) => items.into_iter().nth(number).unwrap_or_default(),
            _ => Self::Scalar,
        }
    }

    /// Sorts as the fields stand: the number of each thing in the one around it. A field that is
    /// missing comes after all that are there.
    pub(super) fn position(&self, path: &str) -> Vec<usize> {
        let mut position = Vec::new();
        let (mut here, mut rest) = (self, path);
        loop {
            let step = match here {
                Self::Scalar => None,
                Self::List(items) => index(rest).and_then(|(i, after)| Some((i, items.get(i)?, after))),
                Self::Map(fields) => field(fields, rest),
            };
            let Some((number, inner, after)) = step else {
                if !rest.is_empty() {
                    position.push(usize::MAX);
                }
                return position;
            };
            position.push(number);
            (here, rest) = (inner, after);
        }
    }
}

/// `[3]…`
fn index(path: &str) -> Option<(usize, &str)> {
    let (number, rest) = path.strip_prefix('[')?.split_once(']')?;
    Some((number.parse().ok()?, rest))
}

/// `name…` or `.name…`; of two that fit, the longer one is meant.
fn field<'a, 'p>(fields: &'a [(String, Order)], path: &'p str) -> Option<(usize, &'a Order, &'p str)> {
    let path = path.strip_prefix('.').unwrap_or(path);
    let fits = |(number, (name, order)): (usize, &'a (String, Order))| {
        let rest = path.strip_prefix(name.as_str())?;
        (rest.is_empty() || rest.starts_with(['.', '['])).then_some((number, order, rest))
    };
    let found = fields.iter().enumerate().filter_map(fits);
    found.min_by_key(|(_, _, rest)| rest.len())
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
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Order::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Order, A::Error> {
        let mut fields = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, Order>()? {
            fields.push((join("", &key), value));
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
