//! Patroni's configuration as this machine would generate it, without a sidecar that runs.

use std::fmt::Write;
use std::fs;

use holdfast_bootstrap::INFO_FILE;
use holdfast_core::types::PeerId;
use holdfast_postgres::generate::Error;
use holdfast_postgres::{Credentials, Generated, KvPlace, Place, Settings, generate};
use zeroize::Zeroizing;

use super::Member;
use super::postgres::absolute;
use crate::config::problem::Problem;
use crate::config::source::Origin;

/// Stands for an instance that nobody knows yet: as long as a real one.
const UNKNOWN_INSTANCE: &str = "00000000000000000000000000000000";

/// What is wrong with what would be generated.
pub fn problems(member: &Member) -> Vec<Problem> {
    let settings = member.postgres.as_ref().filter(|_| member.runs_database);
    let Some((settings, guess)) = settings.zip(guess(member)) else {
        return Vec::new();
    };
    match generate(settings, &guess.place, &masked()) {
        Ok(_) => Vec::new(),
        Err(error) => vec![problem(member, error)],
    }
}

/// The file for people, with what is guessed in it said first. `None` where no database is run.
pub fn show(member: &Member) -> Option<Result<String, Error>> {
    let settings = member.postgres.as_ref().filter(|_| member.runs_database)?;
    let guess = guess(member)?;
    Some(render(settings, &guess))
}

fn render(settings: &Settings, guess: &Guess) -> Result<String, Error> {
    let Generated { shown, .. } = generate(settings, &guess.place, &masked())?;
    let mut out = String::from(
        "# What `holdfast sidecar` generates for Patroni. Secrets are masked; they are derived at\n\
         # bootstrap.\n",
    );
    for note in &guess.notes {
        let _ = writeln!(out, "# {note}");
    }
    out.push_str(&shown);
    Ok(out)
}

/// What the machine is, or may become.
struct Guess {
    place: Place,
    notes: Vec<String>,
}

/// `None` for a member without a peer that it could be, which is told elsewhere.
fn guess(member: &Member) -> Option<Guess> {
    let mut notes = Vec::new();
    let known = info(member);
    let is_ours = |id: &PeerId| {
        let role = holdfast_bootstrap::identity::split(id);
        role.is_some_and(|(role, _)| role == member.role)
    };
    let ours: Vec<_> = member.peers.iter().filter(|p| is_ours(&p.id)).collect();
    let slot = known.as_ref().map(|known| known.ordinal);
    let id = slot.or(member.pinned).map(|slot| member.role.peer_id(slot));
    let own = match ours.iter().find(|peer| Some(&peer.id) == id.as_ref()) {
        Some(own) => own,
        None => {
            let first = ours.first()?;
            let rest: Vec<&str> = ours[1..].iter().map(|peer| peer.id.as_str()).collect();
            notes.push(format!(
                "This machine has no slot yet. It is shown as {}{}: `name` and the addresses \
                 with {} depend on it.",
                first.id,
                match rest.is_empty() {
                    true => String::new(),
                    false => format!(" and may become {}", rest.join(", ")),
                },
                first.vip
            ));
            first
        }
    };
    let instance = known.map(|known| known.instance_id).unwrap_or_else(|| {
        notes.push(
            "It does not know its instance yet either: the zeros in `name` stand for it."
                .to_owned(),
        );
        UNKNOWN_INSTANCE.to_owned()
    });
    let place = Place {
        cluster: member.cluster.clone(),
        id: own.id.clone(),
        instance,
        vip: own.vip,
        members: ours.iter().map(|p| (p.id.clone(), p.vip)).collect(),
        kv: kv(member)?,
        run_dir: absolute(member.run_dir.clone()),
    };
    Some(Guess { place, notes })
}

/// What the last start wrote of this machine.
#[derive(serde::Deserialize)]
struct Info {
    instance_id: String,
    cluster_name: String,
    role: String,
    ordinal: u16,
}

fn info(member: &Member) -> Option<Info> {
    let json = fs::read(member.run_dir.join(INFO_FILE)).ok()?;
    let info: Info = serde_json::from_slice(&json).ok()?;
    let is_ours = info.cluster_name == member.cluster && info.role == member.role.as_str();
    is_ours.then_some(info)
}

/// The agent of this machine, where one is run; else the first of `kv.addresses`.
fn kv(member: &Member) -> Option<KvPlace> {
    let Some(consul) = &member.consul else {
        return member.patroni_kv.clone();
    };
    Some(KvPlace {
        address: holdfast_sidecar::consul_agent::endpoint().to_string(),
        token: consul.token.clone(),
        ca_file: None,
    })
}

/// Secrets that are nowhere shown.
fn masked() -> Credentials {
    let nothing = || Zeroizing::new("masked".to_owned());
    Credentials {
        superuser: nothing(),
        replication: nothing(),
        rewind: nothing(),
        rest: nothing(),
        ca: Zeroizing::new([0; 32]),
    }
}

fn problem(member: &Member, error: Error) -> Problem {
    const OVERLAY: &str = "postgres.overlay";
    let whole = Origin::Nowhere;
    let at = |key: &str| member.origins.get(key).unwrap_or(&whole);
    match error {
        Error::Value {
            key,
            found,
            expected,
        } => Problem::new(at(&key), key.as_str(), found, expected),
        Error::Forbidden { key, why } => {
            let path = key.split(' ').next().unwrap_or(&key);
            let found = format!("{path} in it");
            let expected = format!("nothing of that name: {why}");
            Problem::new(at(OVERLAY), OVERLAY, found, expected)
        }
        Error::Read { path, source } => {
            let found = format!("{}: {source}", path.display());
            Problem::new(at(OVERLAY), OVERLAY, found, "a readable file")
        }
        Error::Yaml { path, source } => {
            let found = format!("{}: {source}", path.display());
            Problem::new(at(OVERLAY), OVERLAY, found, "YAML in Patroni's own format")
        }
    }
}
