//! What is known of the fields of a manifest: which there are, what they hold, what becomes of them.

use serde::de::{self, DeserializeOwned};

/// What an honoured field holds.
pub(super) enum Shape {
    /// A string.
    Text,
    /// A list of strings.
    Texts,
    /// An object of strings.
    Names,
    /// An object of strings of which no message repeats one.
    Secrets,
    /// A whole number.
    Whole,
    /// A list of whole numbers.
    Wholes,
    /// The number of a port.
    Port,
    /// The permissions of a file.
    Mode,
    /// The number of a port, or its name.
    PortOrName,
    /// A boolean.
    Flag,
    /// A number with or without a unit.
    Quantity,
    /// An object.
    Object(&'static Schema),
    /// A list of objects.
    List(&'static Schema),
}

/// An object's fields. Each that Kubernetes has is in exactly one of the lists.
pub(super) struct Schema {
    /// Those that are honoured.
    pub(super) supported: &'static [(&'static str, Shape)],
    /// Those that must be there.
    pub(super) required: &'static [&'static str],
    /// Those that no kubelet acts on, and who does: they are taken, their content is not looked at,
    /// and it is said that they change nothing.
    pub(super) ignored: &'static [(&'static str, &'static str)],
    /// Those that are not taken: why, and what to do instead.
    pub(super) refused: &'static [(&'static str, &'static str)],
    /// All that Kubernetes has.
    pub(super) known: fn() -> &'static [&'static str],
}

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldKind {
    /// What it says happens; single values of it can be refused all the same.
    Honoured,
    /// It is taken and changes nothing, which is said: a scheduler or an API server reads it.
    Ignored,
    /// A manifest that has it is refused.
    Refused,
}

/// A field of a v1 Pod, for who documents or offers them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PodField {
    /// Where it is, as `spec.containers[].image`.
    pub path: String,
    /// What becomes of it; `None`: nobody has decided, which a test forbids.
    pub kind: Option<FieldKind>,
}

/// All fields that Kubernetes has in a v1 Pod, but for what is in those that are not honoured.
#[must_use]
pub fn pod_fields() -> Vec<PodField> {
    let mut found = Vec::new();
    visit(&super::fields::POD, "", &mut found);
    found
}

fn visit(schema: &'static Schema, prefix: &str, found: &mut Vec<PodField>) {
    for name in (schema.known)() {
        let dot = if prefix.is_empty() { "" } else { "." };
        let path = format!("{prefix}{dot}{name}");
        let shape = schema.supported.iter().find(|(field, _)| field == name);
        let among = |list: &[(&str, &str)]| list.iter().any(|(field, _)| field == name);
        let kind = match (shape.is_some(), among(schema.ignored), among(schema.refused)) {
            (true, false, false) => Some(FieldKind::Honoured),
            (false, true, false) => Some(FieldKind::Ignored),
            (false, false, true) => Some(FieldKind::Refused),
            _ => None,
        };
        found.push(PodField {
            path: path.clone(),
            kind,
        });
        match shape {
            Some((_, Shape::Object(inner))) => visit(inner, &path, found),
            Some((_, Shape::List(inner))) => visit(inner, &format!("{path}[]"), found),
            Some(_) | None => {}
        }
    }
}

/// The field names of a Kubernetes type, as its `Deserialize` gives them.
pub(super) fn known<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Fields(Option<&'static [&'static str]>);
    impl<'de> de::Deserializer<'de> for &mut Fields {
        type Error = de::value::Error;
        fn deserialize_any<V: de::Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(de::Error::custom("only the names are wanted"))
        }
        fn deserialize_struct<V: de::Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Self::Error> {
            self.0 = Some(fields);
            self.deserialize_any(visitor)
        }
        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    let mut fields = Fields(None);
    let _ = T::deserialize(&mut fields);
    fields.0.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{api::core::v1 as k8s, apimachinery::pkg::apis::meta::v1::ObjectMeta};

    use super::{Shape::*, *};

    #[test]
    fn kubernetes_types_tell_their_fields() {
        assert!(known::<k8s::PodSpec>().contains(&"nodeSelector"));
        assert!(known::<k8s::EnvVar>().contains(&"valueFrom"));
        assert!(known::<ObjectMeta>().contains(&"ownerReferences"));
    }

    #[test]
    fn every_field_of_kubernetes_is_of_one_kind() {
        let undecided: Vec<String> = pod_fields()
            .into_iter()
            .filter(|field| field.kind.is_none())
            .map(|field| field.path)
            .collect();
        assert_eq!(undecided, [""; 0], "in none of the lists, or in several");
    }

    #[test]
    fn every_field_in_the_tables_is_one_of_kubernetes() {
        fn visit(schema: &'static Schema) {
            let known = (schema.known)();
            for (name, shape) in schema.supported {
                assert!(known.contains(name), "{name}");
                if let Object(inner) | List(inner) = shape {
                    visit(inner);
                }
            }
            for (name, why) in schema.ignored.iter().chain(schema.refused) {
                assert!(known.contains(name) && !why.is_empty(), "{name}");
            }
            for name in schema.required {
                assert!(schema.supported.iter().any(|(field, _)| field == name), "{name}");
            }
        }
        visit(&super::super::fields::POD);
    }
}
