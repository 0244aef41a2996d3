//! What a member learns on its way, put into the tree that its node is read from: its name comes
//! from its slot, and its secrets from where bootstrap writes them.

use std::path::{Path, PathBuf};

use holdfast_core::types::PeerId;

use super::{CLUSTER_SECRET, TURN_SECRET};
use crate::config::keys::find as find_key;
use crate::config::source::{Node, Origin, Value, parse_toml};
use crate::config::tree::Tree;

/// How a TURN server's entry gives credentials of its own.
const CREDENTIALS: [&str; 3] = ["secret_file", "username", "password_file"];

/// Make the tree that of the node `name`; before it has one, of some node that it could be. The
/// folder of secrets.
pub fn as_node(tree: &mut Tree, name: Option<&PeerId>) -> PathBuf {
    let secrets = secrets_dir(tree);
    let file = |name: &str| Path::new(&secrets).join(name).display().to_string();
    tree.nodes.remove("key_file");
    tree.nodes.remove("vip");
    tree.replace("cluster_secret_file", Value::Text(file(CLUSTER_SECRET)));
    let id = name.map(PeerId::to_string).or_else(|| candidate(tree));
    if id.is_none() {
        // No name is right: that is told, and what else is wrong with the node besides.
        tree.replace("vip", Value::Integer(free_octet(tree)));
    }
    let id = id.unwrap_or_else(|| "this-node".to_owned());
    tree.replace("id", Value::Text(id));
    share_turn_secret(tree, &file(TURN_SECRET));
    secrets.into()
}

fn secrets_dir(tree: &Tree) -> String {
    let given = match tree.nodes.get("secrets_dir").map(|node| &node.value) {
        Some(Value::Text(path)) if !path.is_empty() => Some(path.clone()),
        _ => None,
    };
    given.unwrap_or_else(|| {
        let default = find_key("secrets_dir").and_then(|key| key.default);
        let line = format!("x = {}", default.unwrap_or_default());
        match parse_toml(&"default".into(), &line, &mut Vec::new()).pop() {
            Some((
                _,
                Node {
                    value: Value::Text(path),
                    ..
                },
            )) => path,
            _ => String::new(),
        }
    })
}

/// A peer that this machine may become: the pinned one, else the first of its role.
fn candidate(tree: &Tree) -> Option<String> {
    let Value::Text(role) = &tree.nodes.get("role")?.value else {
        return None;
    };
    let names = peers(tree).filter_map(|fields| field(fields, "id"));
    let mut names = names.filter_map(|node| match &node.value {
        Value::Text(name) => Some(name),
        _ => None,
    });
    let is_ours = |name: &&String| {
        let ordinal = name
            .strip_prefix(role.as_str())
            .and_then(|rest| rest.strip_prefix('-'));
        ordinal.is_some_and(|digits| digits.parse::<u16>().is_ok())
    };
    let pinned = match tree.nodes.get("ordinal").map(|node| &node.value) {
        Some(Value::Integer(slot)) => Some(format!("{role}-{slot}")),
        _ => None,
    };
    let listed: Vec<&String> = names.by_ref().filter(is_ours).collect();
    let own = pinned.filter(|pinned| listed.contains(&pinned));
    own.or_else(|| listed.first().map(|name| (*name).clone()))
}

fn free_octet(tree: &Tree) -> i128 {
    let taken: Vec<i128> = peers(tree)
        .filter_map(|fields| match field(fields, "vip")?.value {
            Value::Integer(octet) => Some(octet),
            _ => None,
        })
        .collect();
    (1..=254).find(|octet| !taken.contains(octet)).unwrap_or(1)
}

fn peers(tree: &Tree) -> impl Iterator<Item = &[(String, Node)]> {
    let items = match tree.nodes.get("peers").map(|node| &node.value) {
        Some(Value::List(items)) => items.as_slice(),
        _ => &[],
    };
    items.iter().filter_map(|item| match &item.value {
        Value::Table(fields) => Some(fields.as_slice()),
        _ => None,
    })
}

fn field<'a>(fields: &'a [(String, Node)], name: &str) -> Option<&'a Node> {
    let found = fields.iter().find(|(field, _)| field == name);
    found.map(|(_, node)| node)
}

/// TURN servers whose entry gives no credentials take the derived secret.
fn share_turn_secret(tree: &mut Tree, file: &str) {
    let Some(Value::List(items)) = tree.nodes.get_mut("turn").map(|node| &mut node.value) else {
        return;
    };
    for item in items {
        if let Value::Table(fields) = &mut item.value
            && CREDENTIALS.iter().all(|name| field(fields, name).is_none())
        {
            let value = Value::Text(file.to_owned());
            let origin = Origin::Bootstrap;
            fields.push(("secret_file".to_owned(), Node { origin, value }));
        }
    }
}
