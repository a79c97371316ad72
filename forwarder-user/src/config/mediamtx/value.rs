//! YAML as MediaMTX reads it: `yes` is true, and a password of digits keeps its zeros.

use saphyr::{ScalarStyle, Yaml, YamlLoader};
use saphyr_parser::Parser;

/// A value, with its text as it was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text { text: String, quoted: bool },
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
}

impl Value {
    /// Reads a document. An empty one is an empty map.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut loader = YamlLoader::<Yaml<'_>>::default();
        loader.early_parse(false);
        Parser::new_from_str(text).load(&mut loader, true).map_err(|error| error.to_string())?;
        if let Some(error) = loader.error() {
            return Err(error.to_string());
        }
        loader.into_documents().first().map_or_else(|| Ok(Self::Map(vec![])), Self::from_yaml)
    }

    fn from_yaml(yaml: &Yaml<'_>) -> Result<Self, String> {
        Ok(match yaml {
            Yaml::Representation(text, style, _) => {
                Self::Text { text: text.to_string(), quoted: *style != ScalarStyle::Plain }
            }
            Yaml::Sequence(items) => Self::List(items.iter().map(Self::from_yaml).collect::<Result<_, _>>()?),
            Yaml::Mapping(entries) => {
                let entries = entries.iter().map(|(key, value)| {
                    let key = Self::from_yaml(key)?.text().ok_or("a key is not a text")?.to_owned();
                    Ok((key, Self::from_yaml(value)?))
                });
                merged(entries.collect::<Result<_, String>>()?)
            }
            Yaml::Tagged(_, value) => Self::from_yaml(value)?,
            Yaml::Value(_) | Yaml::Alias(_) | Yaml::BadValue => return Err("it has a value of an unknown kind".into()),
        })
    }

    /// The text of a scalar that is not empty.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text { text, quoted } => {
                let null = !quoted && (text == "~" || text == "null");
                (!text.is_empty() && !null).then_some(text)
            }
            _ => None,
        }
    }

    /// A boolean, in any of the spellings that YAML has had.
    pub(super) fn flag(&self) -> Option<bool> {
        match self.text()?.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => Some(true),
            "false" | "no" | "off" => Some(false),
            _ => None,
        }
    }

    /// Nothing, or switched off.
    pub(super) fn is_off(&self) -> bool {
        match self {
            Self::Text { .. } => self.text().is_none() || self.flag() == Some(false),
            Self::List(items) => items.is_empty(),
            Self::Map(entries) => entries.is_empty(),
        }
    }

    /// The entries of a map.
    pub(super) fn entries(&self) -> &[(String, Value)] {
        if let Self::Map(entries) = self { entries } else { &[] }
    }

    /// A map's value.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.entries().iter().find_map(|(name, value)| (name == key).then_some(value))
    }

    /// The items of a list.
    pub(super) fn items(&self) -> &[Value] {
        if let Self::List(items) = self { items } else { &[] }
    }

    /// The texts of a list, or of a scalar in which commas part them.
    pub(super) fn texts(&self) -> Vec<&str> {
        match self {
            Self::List(items) => items.iter().filter_map(Value::text).collect(),
            _ => self.text().into_iter().flat_map(|text| text.split(',').map(str::trim)).collect(),
        }
    }
}

/// A map with what its `<<` refers to: keys of its own win, and of several maps the first.
fn merged(mut entries: Vec<(String, Value)>) -> Value {
    let Some(at) = entries.iter().position(|(key, _)| key == "<<") else { return Value::Map(entries) };
    let (_, others) = entries.remove(at);
    let others = if let Value::List(others) = others { others } else { vec![others] };
    for (key, value) in others.iter().flat_map(Value::entries) {
        if !entries.iter().any(|(known, _)| known == key) {
            entries.push((key.clone(), value.clone()));
        }
    }
    Value::Map(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_text() {
        let value = Value::parse("a: yes\nb: 0123\nc: ~\nd: '~'\ne: [x, 1]\nf:\n").unwrap();
        assert_eq!(value.get("a").unwrap().flag(), Some(true));
        assert_eq!(value.get("b").unwrap().text(), Some("0123"));
        assert!(value.get("c").unwrap().is_off() && value.get("f").unwrap().is_off());
        assert_eq!(value.get("d").unwrap().text(), Some("~"));
        assert_eq!(value.get("e").unwrap().texts(), ["x", "1"]);
        let merged = Value::parse("a: &a\n  x: 1\n  y: 2\nb:\n  <<: *a\n  x: 3\nc:\n  <<: [*a, {z: 4}]\n").unwrap();
        let get = |map: &str, key: &str| merged.get(map).and_then(|map| map.get(key)?.text()).map(str::to_owned);
        assert_eq!(
            [get("b", "x"), get("b", "y"), get("c", "z"), get("b", "<<")].map(Option::unwrap_or_default),
            ["3", "2", "4", ""]
        );
        assert!(Value::parse("").unwrap().is_off());
        assert!(Value::parse("a: [").is_err());
        assert!(Value::parse("a: 1\na: 2\n").is_err());
    }
}
