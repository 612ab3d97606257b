//! The layout of a type as serde sees it: names, fields and variants, down to numbers. Two builds whose layouts are the same
//! read one another's states.

use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};

/// Types within types beyond which a layout is given up: no state nests like that.
const MAX_DEPTH: u32 = 64;

/// The layout of `T`, as text.
#[must_use]
pub fn of<T: DeserializeOwned>() -> String {
    let mut variants = Variants::new();
    let mut texts = BTreeSet::new();
    // Each round goes into one more variant of every enumeration that it meets, until there are no new ones.
    loop {
        let known: usize = variants.values().sum();
        let mut describer = Describer { text: String::new(), variants: &mut variants, depth: 0 };
        if let Err(error) = T::deserialize(&mut describer) {
            describer.text.push_str(&error.0);
        }
        texts.insert(std::mem::take(&mut describer.text));
        if variants.values().sum::<usize>() == known {
            return texts.into_iter().collect::<Vec<_>>().join("\n") + "\n";
        }
    }
}

/// How many variants of an enumeration have been gone into, by its name and theirs.
type Variants = BTreeMap<(&'static str, &'static [&'static str]), usize>;

/// Gives a type made-up values, and writes down what it asks for.
struct Describer<'a> {
    text: String,
    variants: &'a mut Variants,
    depth: u32,
}

#[derive(Debug)]
struct Refusal(String);

impl Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

impl de::Error for Refusal {
    fn custom<T: Display>(message: T) -> Self {
        Self(format!("!{message}"))
    }
}

impl Describer<'_> {
    fn note(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push(' ');
    }
}

/// Methods for values without parts.
macro_rules! leaves {
    ($($method:ident $visit:ident $value:expr;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
            self.note(stringify!($visit).trim_start_matches("visit_"));
            visitor.$visit($value)
        })*
    };
}

impl<'de> de::Deserializer<'de> for &mut Describer<'_> {
    type Error = Refusal;

    leaves! {
        deserialize_bool visit_bool false;
        deserialize_i8 visit_i8 0;
        deserialize_i16 visit_i16 0;
        deserialize_i32 visit_i32 0;
        deserialize_i64 visit_i64 0;
        deserialize_i128 visit_i128 0;
        deserialize_u8 visit_u8 0;
        deserialize_u16 visit_u16 0;
        deserialize_u32 visit_u32 0;
        deserialize_u64 visit_u64 0;
        deserialize_u128 visit_u128 0;
        deserialize_f32 visit_f32 0.0;
        deserialize_f64 visit_f64 0.0;
        deserialize_char visit_char '0';
        deserialize_str visit_str "";
        deserialize_string visit_str "";
        deserialize_bytes visit_bytes &[];
        deserialize_byte_buf visit_bytes &[];
        deserialize_identifier visit_str "";
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.note("()");
        visitor.visit_unit()
    }
    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        self.note(name);
        visitor.visit_unit()
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        self.note(name);
        visitor.visit_newtype_struct(self)
    }
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.note("option");
        visitor.visit_some(self)
    }
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.note("list");
        visitor.visit_seq(Parts::new(self, 1)?)
    }
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.note("map");
        visitor.visit_map(Parts::new(self, 1)?)
    }
    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Refusal> {
        self.note(&format!("tuple {len}"));
        visitor.visit_seq(Parts::new(self, len)?)
    }
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        self.note(name);
        self.deserialize_tuple(len, visitor)
    }
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        self.note(&format!("{name} {fields:?}"));
        visitor.visit_seq(Parts::new(self, fields.len())?)
    }
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        let next = self.variants.entry((name, variants)).or_default();
        let index = if *next < variants.len() { *next } else { 0 };
        *next = variants.len().min(*next + 1);
        self.note(&format!("{name} {variants:?} {index}"));
        let index = u32::try_from(index).map_err(de::Error::custom)?;
        visitor.visit_enum(Variant { describer: self, index })
    }
    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Refusal> {
        Err(de::Error::custom("a state says what it is made of"))
    }
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_any(visitor)
    }
    fn is_human_readable(&self) -> bool {
        false
    }
}

/// The parts of a value, one after the other.
struct Parts<'a, 'b> {
    describer: &'a mut Describer<'b>,
    left: usize,
}

impl<'a, 'b> Parts<'a, 'b> {
    fn new(describer: &'a mut Describer<'b>, left: usize) -> Result<Self, Refusal> {
        describer.depth += 1;
        if describer.depth > MAX_DEPTH {
            return Err(de::Error::custom("nested too deeply"));
        }
        Ok(Self { describer, left })
    }

    fn next<'de, T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refusal> {
        match self.left.checked_sub(1) {
            None => Ok(None),
            Some(left) => {
                self.left = left;
                seed.deserialize(&mut *self.describer).map(Some)
            }
        }
    }
}

impl Drop for Parts<'_, '_> {
    fn drop(&mut self) {
        self.describer.depth -= 1;
        self.describer.note(";");
    }
}

impl<'de> de::SeqAccess<'de> for Parts<'_, '_> {
    type Error = Refusal;
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refusal> {
        self.next(seed)
    }
}

impl<'de> de::MapAccess<'de> for Parts<'_, '_> {
    type Error = Refusal;
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refusal> {
        self.next(seed)
    }
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refusal> {
        seed.deserialize(&mut *self.describer)
    }
}

/// One variant of an enumeration.
struct Variant<'a, 'b> {
    describer: &'a mut Describer<'b>,
    index: u32,
}

impl<'de> de::EnumAccess<'de> for Variant<'_, '_> {
    type Error = Refusal;
    type Variant = Self;
    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Refusal> {
        Ok((seed.deserialize(IntoDeserializer::<Refusal>::into_deserializer(self.index))?, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'_, '_> {
    type Error = Refusal;
    fn unit_variant(self) -> Result<(), Refusal> {
        Ok(())
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Refusal> {
        seed.deserialize(self.describer)
    }
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Refusal> {
        de::Deserializer::deserialize_tuple(self.describer, len, visitor)
    }
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        de::Deserializer::deserialize_struct(self.describer, "", fields, visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::of;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    // Nothing is ever read from the fields: only what they are counts.
    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct Outer {
        inner: Vec<Inner>,
        map: BTreeMap<u32, Option<[u8; 3]>>,
    }

    #[derive(Deserialize)]
    #[expect(dead_code)]
    enum Inner {
        Unit,
        Pair(u8, bool),
        Fields { wide: u128 },
    }

    #[test]
    fn a_layout_goes_down_to_the_numbers_of_every_variant() {
        let lines: Vec<_> = of::<Outer>().lines().map(str::to_owned).collect();
        let line = |variant: &str| {
            format!(
                "Outer [\"inner\", \"map\"] list Inner [\"Unit\", \"Pair\", \"Fields\"] {variant}; map u32 option tuple 3 \
                 u8 u8 u8 ; ; ; "
            )
        };
        let variants = ["0 ", "1 tuple 2 u8 bool ; ", "2  [\"wide\"] u128 ; "];
        assert_eq!(lines, variants.map(line));
    }
}
