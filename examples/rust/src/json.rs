//! JSON, as much as reading a manifest takes. With crates at hand this is serde_json.
use std::collections::BTreeMap;
use std::{iter::Peekable, str::Chars};

#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

impl Json {
    pub fn parse(text: &str) -> Result<Json, String> {
        let mut rest = text.chars().peekable();
        let found = value(&mut rest)?;
        skip(&mut rest);
        rest.next()
            .map_or(Ok(found), |extra| Err(format!("{extra:?} after the end")))
    }

    /// The member of that name; Null where there is none.
    pub fn get(&self, name: &str) -> &Json {
        match self {
            Json::Object(members) => members.get(name).unwrap_or(&Json::Null),
            _ => &Json::Null,
        }
    }

    pub fn number(&self, what: &str) -> Result<usize, String> {
        match self {
            Json::Number(value) if *value >= 0.0 && value.fract() == 0.0 => Ok(*value as usize),
            other => Err(format!("{what} is {other:?}, expected a whole number")),
        }
    }

    pub fn text(&self) -> &str {
        match self {
            Json::Text(text) => text,
            _ => "",
        }
    }

    pub fn list(&self) -> &[Json] {
        match self {
            Json::List(items) => items,
            _ => &[],
        }
    }
}

type Rest<'a> = Peekable<Chars<'a>>;

fn skip(rest: &mut Rest) {
    while rest
        .next_if(|character| character.is_ascii_whitespace())
        .is_some()
    {}
}

fn expect(rest: &mut Rest, wanted: char) -> Result<(), String> {
    skip(rest);
    match rest.next() {
        Some(found) if found == wanted => Ok(()),
        found => Err(format!("{found:?}, expected {wanted:?}")),
    }
}

fn value(rest: &mut Rest) -> Result<Json, String> {
    skip(rest);
    match rest.peek() {
        Some('{') => Ok(Json::Object(
            sequence(rest, '{', '}', |rest| {
                skip(rest);
                let name = string(rest)?;
                expect(rest, ':')?;
                Ok((name, value(rest)?))
            })?
            .into_iter()
            .collect(),
        )),
        Some('[') => Ok(Json::List(sequence(rest, '[', ']', value)?)),
        Some('"') => Ok(Json::Text(string(rest)?)),
        _ => word(rest),
    }
}

fn sequence<T>(
    rest: &mut Rest,
    open: char,
    close: char,
    item: impl Fn(&mut Rest) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    expect(rest, open)?;
    let mut items = Vec::new();
    loop {
        skip(rest);
        if rest.next_if_eq(&close).is_some() {
            return Ok(items);
        }
        if !items.is_empty() {
            expect(rest, ',')?;
        }
        items.push(item(rest)?);
    }
}

fn string(rest: &mut Rest) -> Result<String, String> {
    expect(rest, '"')?;
    let mut text = String::new();
    loop {
        match rest.next().ok_or("text without an end")? {
            '"' => return Ok(text),
            '\\' => match rest.next().ok_or("text without an end")? {
                'u' => {
                    let code: String = rest.by_ref().take(4).collect();
                    let code = u32::from_str_radix(&code, 16)
                        .map_err(|_| format!("\\u{code} is no character"))?;
                    // names and numbers have no surrogate pairs
                    text.push(char::from_u32(code).unwrap_or('\u{fffd}'));
                }
                'n' => text.push('\n'),
                't' => text.push('\t'),
                'r' => text.push('\r'),
                other => text.push(other),
            },
            other => text.push(other),
        }
    }
}

fn word(rest: &mut Rest) -> Result<Json, String> {
    let mut word = String::new();
    while let Some(character) =
        rest.next_if(|character| character.is_ascii_alphanumeric() || "+-.".contains(*character))
    {
        word.push(character);
    }
    match word.as_str() {
        "null" => Ok(Json::Null),
        "true" | "false" => Ok(Json::Bool(word == "true")),
        _ => word
            .parse()
            .map(Json::Number)
            .map_err(|_| format!("{word:?} is no JSON")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest() {
        let found = Json::parse(
            r#" {"model": {"window": 4096, "none": null, "eos": [0, 1]},
       "name": "a\"\u00e9\n", "x": -1.5e3, "y": [] } "#,
        )
        .unwrap();
        assert_eq!(found.get("model").get("window").number("window"), Ok(4096));
        assert_eq!(found.get("model").get("none"), &Json::Null);
        assert_eq!(found.get("model").get("eos").list().len(), 2);
        assert_eq!(found.get("name").text(), "a\"é\n");
        assert_eq!(found.get("x"), &Json::Number(-1500.0));
        assert!(found.get("x").number("x").is_err());
    }

    #[test]
    fn what_is_no_json() {
        for text in [
            "",
            "{",
            "[1,]",
            "[1 2]",
            "{\"a\" 1}",
            "nul",
            "1 2",
            "\"a",
            "{\"a\": }",
        ] {
            assert!(Json::parse(text).is_err(), "{text}");
        }
    }
}
