//! Holds a file against the schema: unknown and missing keys, wrong types, texts that are no
//! time, all of them at once.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value as Json;
use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Finding, did_you_mean, shown};
use super::values::expected_instead;

/// The schema of a file, without references.
pub(super) fn schema<T: JsonSchema>() -> Json {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let mut json = schema.to_value();
    without_null(&mut json);
    json
}

/// TOML has no null: a key that may be left out is left out.
fn without_null(schema: &mut Json) {
    match schema {
        Json::Object(entries) => {
            if let Some(Json::Array(types)) = entries.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    entries.insert("type".to_owned(), only);
                }
            }
            if entries.get("default").is_some_and(Json::is_null) {
                entries.remove("default");
            }
            if let Some(Json::Array(names)) = entries.get_mut("enum") {
                names.retain(|name| !name.is_null());
            }
            if let Some(Json::Array(any)) = entries.get_mut("anyOf") {
                any.retain(|one| one.get("type").is_none_or(|name| name != "null"));
                if let [Json::Object(only)] = any.as_slice() {
                    let only = only.clone();
                    entries.remove("anyOf");
                    for (key, value) in only {
                        entries.entry(key).or_insert(value);
                    }
                }
            }
            entries.values_mut().for_each(without_null);
        }
        Json::Array(items) => items.iter_mut().for_each(without_null),
        _ => {}
    }
}

/// Everything about the file that is not as the schema has it.
pub(super) fn check(schema: &Json, root: &DeTable<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    table(schema, root, "", 0..0, &mut findings);
    findings
}

fn value(schema: &Json, found: &Spanned<DeValue<'_>>, key: &str, findings: &mut Vec<Finding>) {
    let alternatives = alternatives(schema);
    let mut complaints: Vec<Vec<Finding>> = Vec::new();
    for alternative in &alternatives {
        let mut complaint = Vec::new();
        if is_type(alternative, found.get_ref()) {
            one(alternative, found, key, &mut complaint);
            if complaint.is_empty() {
                return;
            }
            complaints.push(complaint);
        }
    }
    if let [_] = complaints.as_slice() {
        return findings.append(&mut complaints[0]);
    }
    let names: Vec<&str> = alternatives
        .iter()
        .filter_map(|a| a["const"].as_str())
        .collect();
    let near = match found.get_ref() {
        DeValue::String(text) => did_you_mean(text, names.iter().copied()),
        _ => String::new(),
    };
    let expected: Vec<String> = alternatives.iter().map(describe).collect();
    let message = format!(
        "found {}{near}, expected {}",
        show(found.get_ref()),
        expected.join(" or ")
    );
    findings.push(Finding::new(key, message).at(found.span()));
}

/// The schemas of which one has to hold; each name of an enumeration is one.
fn alternatives(schema: &Json) -> Vec<Json> {
    let nested = ["anyOf", "oneOf"]
        .into_iter()
        .find_map(|name| schema[name].as_array());
    if let Some(any) = nested {
        return any.iter().flat_map(alternatives).collect();
    }
    match schema["enum"].as_array() {
        Some(names) => {
            let only = |name: &Json| serde_json::json!({ "type": "string", "const": name });
            names.iter().map(only).collect()
        }
        None => vec![schema.clone()],
    }
}

fn is_type(schema: &Json, found: &DeValue<'_>) -> bool {
    let Some(name) = schema["type"].as_str() else {
        return true;
    };
    match found {
        DeValue::String(_) => name == "string",
        DeValue::Integer(_) => name == "integer" || name == "number",
        DeValue::Float(_) => name == "number",
        DeValue::Boolean(_) => name == "boolean",
        DeValue::Datetime(_) => false,
        DeValue::Array(_) => name == "array",
        DeValue::Table(_) => name == "object",
    }
}

fn one(schema: &Json, found: &Spanned<DeValue<'_>>, key: &str, findings: &mut Vec<Finding>) {
    let mut wrong = |expected: String| {
        let message = format!("found {}, expected {expected}", show(found.get_ref()));
        findings.push(Finding::new(key, message).at(found.span()));
    };
    match found.get_ref() {
        DeValue::String(text) => {
            if let Some(name) = schema["const"].as_str() {
                if name != text {
                    let near = did_you_mean(text, [name].into_iter());
                    wrong(format!("\"{name}\"{near}"));
                }
            } else if let Some(format) = schema["format"].as_str()
                && let Some(expected) = expected_instead(format, text)
            {
                wrong(expected);
            }
        }
        DeValue::Integer(number) => {
            let number = i128::from_str_radix(number.as_str(), number.radix()).ok();
            let min = schema["minimum"].as_i64().unwrap_or(i64::MIN);
            let max = schema["maximum"].as_i64().unwrap_or(i64::MAX);
            if number.is_none_or(|number| number < min.into() || number > max.into()) {
                wrong(format!("a whole number from {min} to {max}"));
            }
        }
        DeValue::Array(items) => {
            let min = schema["minItems"].as_u64().unwrap_or(0);
            let max = schema["maxItems"].as_u64().unwrap_or(u64::MAX);
            let len = items.len() as u64;
            if len < min || len > max {
                wrong(format!("a list of {min}"));
            }
            for (n, item) in items.iter().enumerate() {
                value(&schema["items"], item, &format!("{key}[{n}]"), findings);
            }
        }
        DeValue::Table(entries) => table(schema, entries, key, found.span(), findings),
        DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {}
    }
}

fn table(
    schema: &Json,
    entries: &DeTable<'_>,
    path: &str,
    span: std::ops::Range<usize>,
    findings: &mut Vec<Finding>,
) {
    let full = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    let empty = serde_json::Map::new();
    let known = schema["properties"].as_object().unwrap_or(&empty);
    for (name, found) in entries.iter() {
        let text: &str = name.get_ref();
        // A map takes any key.
        let any = schema
            .get("additionalProperties")
            .filter(|any| any.is_object());
        match known.get(text).or(any) {
            Some(schema) => value(schema, found, &full(text), findings),
            None => {
                let mut near = did_you_mean(text, known.keys().map(String::as_str));
                if near.is_empty() {
                    let names: Vec<&str> = known.keys().map(String::as_str).collect();
                    near = format!(", expected one of {}", names.join(", "));
                }
                let message = format!("an unknown key{near}");
                findings.push(Finding::new(full(&clip(text)), message).at(name.span()));
            }
        }
    }
    let required = schema["required"]
        .as_array()
        .map_or(&[] as &[Json], Vec::as_slice);
    for name in required.iter().filter_map(Json::as_str) {
        if !entries.contains_key(name) {
            let about = describe(&known[name]);
            let message = format!("is missing, expected {about}");
            findings.push(Finding::new(full(name), message).at(span.clone()));
        }
    }
}

/// A name from a file, as long as a message can bear.
fn clip(name: &str) -> String {
    name.chars().take(60).collect()
}

/// What a schema wants, in words.
fn describe(schema: &Json) -> String {
    if let Some(name) = schema["const"].as_str() {
        return format!("\"{name}\"");
    }
    let several = alternatives(schema);
    if several.len() > 1 {
        let each: Vec<String> = several.iter().map(describe).collect();
        return each.join(" or ");
    }
    let about = match (schema["format"].as_str(), schema["type"].as_str()) {
        (Some("time"), _) => "a time like \"1500ms\"",
        (Some("offset"), _) => "a time like \"-90m\"",
        (Some("size"), _) => "a size like \"2MB\"",
        (Some("share"), _) => "a share like \"50%\"",
        (Some("link"), _) => "a link like \"delay=5ms\"",
        (Some("ipv4"), _) => "an IPv4 address",
        (_, Some("string")) => "a text",
        (_, Some("integer")) => "a whole number",
        (_, Some("boolean")) => "true or false",
        (_, Some("array")) if schema["minItems"] == 2 => "a list of two",
        (_, Some("array")) => "a list",
        (_, Some("object")) => "a table",
        _ => "something else",
    };
    about.to_owned()
}

/// A value of a file, for a message.
fn show(found: &DeValue<'_>) -> String {
    match found {
        DeValue::String(text) => shown(text),
        DeValue::Integer(number) => clip(number.as_str()),
        DeValue::Float(number) => clip(number.as_str()),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(items) => format!("a list of {}", items.len()),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
