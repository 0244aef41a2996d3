//! Which peer this machine may be: its role, the ordinals of that role, and pins.
//!
//! Pure functions over text from configuration and environment.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use holdfast_core::slots::{SLOTS_MAX, Slot};
use holdfast_core::types::PeerId;

/// Longest name of a role: with an ordinal it fits a peer id.
pub const ROLE_LEN_MAX: usize = 32;
/// The role of the machines that run the KV.
pub const COORDINATOR: &str = "coordinator";
/// The role of the machines that run the service.
pub const WORKER: &str = "worker";
/// The variables that pin an ordinal, and the role that each is for.
pub const PIN_VARIABLES: [(&str, &str); 2] = [
    ("WORKER_ORDINAL", WORKER),
    ("COORDINATOR_ORDINAL", COORDINATOR),
];
/// Most names that a message lists.
const LISTED_MAX: usize = 32;

/// What a machine is there for: a lower-case word such as `coordinator` or `worker`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Role(Box<str>);

impl Role {
    /// The word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether machines of this role run the KV.
    #[must_use]
    pub fn is_coordinator(&self) -> bool {
        &*self.0 == COORDINATOR
    }

    /// The name of the peer with this role and ordinal.
    #[must_use]
    pub fn peer_id(&self, ordinal: Slot) -> PeerId {
        let id = format!("{}-{ordinal}", self.0);
        id.parse().expect("a role and a number are a short word")
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Role {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Role, IdentityError> {
        let valid = (1..=ROLE_LEN_MAX).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        match valid {
            true => Ok(Role(text.into())),
            false => Err(IdentityError::Role(shortened(text))),
        }
    }
}

/// What is wrong with who this machine should be: bad configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// A role that cannot be one.
    #[error(
        "role = {0:?}: expected a word of 1 to {ROLE_LEN_MAX} lower-case letters and digits, such as \"worker\" or \"coordinator\""
    )]
    Role(String),
    /// A cluster's name that would change keys and paths.
    #[error("cluster = {0:?}: expected 1 to 64 letters, digits, '-', '_' or '.'")]
    Cluster(String),
    /// A pin that is no number.
    #[error("{from} = {found:?}: expected an ordinal, a whole number from 0 to 65535")]
    Ordinal {
        /// The variable or key.
        from: String,
        /// Its value, shortened.
        found: String,
    },
    /// A pin for machines of another role.
    #[error("{from} is set, but this machine's role is {role}: unset it, or correct the role")]
    OtherRole {
        /// The variable.
        from: &'static str,
        /// Our role.
        role: Role,
    },
    /// Two pins that disagree.
    #[error("{first} = {first_ordinal}, but {second} = {second_ordinal}: expected one pin")]
    TwoPins {
        /// One.
        first: String,
        /// Its value.
        first_ordinal: Slot,
        /// The other.
        second: String,
        /// Its value.
        second_ordinal: Slot,
    },
    /// Two peers with one ordinal, which is one slot.
    #[error(
        "peers {first} and {second} have the same ordinal {ordinal}: expected each once, workers' after the coordinators'"
    )]
    Duplicate {
        /// One.
        first: PeerId,
        /// The other.
        second: PeerId,
        /// Of both.
        ordinal: Slot,
    },
    /// The peer that this machine should be is not in the list.
    #[error("peer {wanted} is not in the peer list; it has {listed}")]
    NotListed {
        /// Who.
        wanted: PeerId,
        /// Who is.
        listed: String,
    },
    /// No peer has our role.
    #[error("no peer of role {role} (\"{role}-<ordinal>\") is in the peer list; it has {listed}")]
    NoPeers {
        /// Our role.
        role: Role,
        /// Who is.
        listed: String,
    },
    /// More peers of one role than there can be slots.
    #[error("{found} peers of role {role}: expected at most {SLOTS_MAX}")]
    TooMany {
        /// Our role.
        role: Role,
        /// How many.
        found: usize,
    },
}

/// The ordinals that a machine may claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidates {
    /// The machine's role.
    pub role: Role,
    /// The ordinals of the peers with this role, each once, ascending; at least one.
    pub slots: Vec<Slot>,
    /// The one that it has to be; it is among `slots`.
    pub pinned: Option<Slot>,
}

impl Candidates {
    /// The ordinals of `role` in the peer list, with a pin ([`pin`]) if there is one.
    pub fn new(
        role: Role,
        pinned: Option<Slot>,
        peers: &[PeerId],
    ) -> Result<Candidates, IdentityError> {
        let slots = slots_of(&role, peers)?;
        if slots.is_empty() {
            let listed = listed(peers);
            return Err(IdentityError::NoPeers { role, listed });
        }
        if slots.len() > SLOTS_MAX {
            let found = slots.len();
            return Err(IdentityError::TooMany { role, found });
        }
        let candidates = Candidates {
            role,
            slots,
            pinned,
        };
        match pinned {
            Some(slot) => candidates.peer_id(slot, peers).map(|_| candidates),
            None => Ok(candidates),
        }
    }

    /// The name of the peer that owns `slot`, which must be in the list.
    pub fn peer_id(&self, slot: Slot, peers: &[PeerId]) -> Result<PeerId, IdentityError> {
        let wanted = self.role.peer_id(slot);
        match self.slots.binary_search(&slot) {
            Ok(_) => Ok(wanted),
            Err(_) => {
                let listed = listed(peers);
                Err(IdentityError::NotListed { wanted, listed })
            }
        }
    }
}

/// The role and the ordinal in a peer id, where it has both: `worker-3`, not `worker-03`.
#[must_use]
pub fn split(id: &PeerId) -> Option<(Role, Slot)> {
    let (role, ordinal) = id.as_str().rsplit_once('-')?;
    Some((role.parse().ok()?, parse_ordinal(ordinal)?))
}

/// Ascending, and refused when two peers, of whatever roles, have one ordinal.
fn slots_of(role: &Role, peers: &[PeerId]) -> Result<Vec<Slot>, IdentityError> {
    let mut seen = BTreeMap::new();
    for peer in peers {
        let Some((of, ordinal)) = split(peer) else {
            continue;
        };
        if let Some((first, _)) = seen.insert(ordinal, (peer, of)) {
            return Err(IdentityError::Duplicate {
                first: first.clone(),
                second: peer.clone(),
                ordinal,
            });
        }
    }
    let ours = seen.into_iter().filter(|(_, (_, of))| of == role);
    Ok(ours.map(|(ordinal, _)| ordinal).collect())
}

/// The ordinal that configuration (`ordinal`) or environment ([`PIN_VARIABLES`]) fix, if any.
///
/// `variable` looks one up; empty is unset, as compose files write it.
pub fn pin(
    role: &Role,
    configured: Option<Slot>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Slot>, IdentityError> {
    let mut pinned = configured.map(|slot| ("ordinal".to_owned(), slot));
    for (name, of) in PIN_VARIABLES {
        let Some(value) = variable(name).filter(|value| !value.is_empty()) else {
            continue;
        };
        if role.as_str() != of {
            let role = role.clone();
            return Err(IdentityError::OtherRole { from: name, role });
        }
        let slot = parse_ordinal(&value).ok_or_else(|| IdentityError::Ordinal {
            from: name.to_owned(),
            found: shortened(&value),
        })?;
        match pinned {
            Some((first, first_ordinal)) if first_ordinal != slot => {
                return Err(IdentityError::TwoPins {
                    first,
                    first_ordinal,
                    second: name.to_owned(),
                    second_ordinal: slot,
                });
            }
            _ => pinned = Some((name.to_owned(), slot)),
        }
    }
    Ok(pinned.map(|(_, slot)| slot))
}

/// Refuse a cluster's name that would change the keys that it is part of.
pub fn check_cluster(name: &str) -> Result<(), IdentityError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    match (1..=64).contains(&name.len()) && name.bytes().all(plain) {
        true => Ok(()),
        false => Err(IdentityError::Cluster(shortened(name))),
    }
}

/// A number as we would write it: no sign, no leading zeroes, no spaces.
fn parse_ordinal(text: &str) -> Option<Slot> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let canonical = text == "0" || !text.starts_with('0');
    (digits && canonical).then(|| text.parse().ok()).flatten()
}

fn listed(peers: &[PeerId]) -> String {
    if peers.is_empty() {
        return "no peers".to_owned();
    }
    let names = peers.iter().take(LISTED_MAX).map(PeerId::as_str);
    let names = names.collect::<Vec<_>>().join(", ");
    match peers.len().saturating_sub(LISTED_MAX) {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use proptest::prelude::*;

    fn role(text: &str) -> Role {
        text.parse().unwrap()
    }

    fn peers(ids: &[&str]) -> Vec<PeerId> {
        ids.iter().map(|id| id.parse().unwrap()).collect()
    }

    fn six() -> Vec<PeerId> {
        peers(&[
            "worker-5",
            "coordinator-0",
            "worker-3",
            "coordinator-1",
            "coordinator-2",
            "worker-4",
        ])
    }

    fn candidates(of: &str, pinned: Option<Slot>) -> Result<Candidates, IdentityError> {
        Candidates::new(role(of), pinned, &six())
    }

    #[test]
    fn the_candidates_are_the_ordinals_of_the_role_in_ascending_order() {
        assert_eq!(candidates("worker", None).unwrap().slots, [3, 4, 5]);
        assert_eq!(candidates("coordinator", None).unwrap().slots, [0, 1, 2]);
        let strange = peers(&["worker-03", "worker", "worker-x", "db.worker-1", "worker-7"]);
        let found = Candidates::new(role("worker"), None, &strange).unwrap();
        assert_eq!(
            found.slots,
            [7],
            "what is no role and number is nobody's ordinal"
        );
    }

    #[test]
    fn the_peer_id_is_role_and_ordinal_and_has_to_be_in_the_list() {
        let worker = candidates("worker", None).unwrap();
        assert_eq!(worker.peer_id(4, &six()).unwrap().as_str(), "worker-4");
        let error = worker.peer_id(9, &six()).unwrap_err().to_string();
        assert_eq!(
            error,
            "peer worker-9 is not in the peer list; it has worker-5, coordinator-0, worker-3, \
             coordinator-1, coordinator-2, worker-4"
        );
        assert!(
            worker.peer_id(0, &six()).is_err(),
            "a coordinator's ordinal"
        );
    }

    #[test]
    fn a_pin_has_to_be_among_the_candidates() {
        assert_eq!(candidates("worker", Some(4)).unwrap().pinned, Some(4));
        let error = candidates("worker", Some(1)).unwrap_err().to_string();
        assert!(
            error.contains("worker-1 is not in the peer list"),
            "{error}"
        );
    }

    #[test]
    fn a_role_without_peers_is_an_error_that_says_who_is_there() {
        let error = candidates("gateway", None).unwrap_err().to_string();
        assert!(
            error.contains("\"gateway-<ordinal>\"") && error.contains("worker-5"),
            "{error}"
        );
        let error = Candidates::new(role("worker"), None, &[])
            .unwrap_err()
            .to_string();
        assert!(error.contains("it has no peers"), "{error}");
    }

    #[test]
    fn two_peers_with_one_ordinal_are_named_both_whatever_their_roles() {
        for ids in [
            ["worker-3", "worker-4", "worker-3"],
            ["worker-3", "worker-4", "coordinator-3"],
        ] {
            let error = Candidates::new(role("worker"), None, &peers(&ids)).unwrap_err();
            assert_eq!(
                error,
                IdentityError::Duplicate {
                    first: ids[0].parse().unwrap(),
                    second: ids[2].parse().unwrap(),
                    ordinal: 3,
                }
            );
        }
    }

    #[test]
    fn more_peers_than_slots_are_refused_and_a_long_list_is_shortened() {
        let many: Vec<PeerId> = (0..300).map(|i| role("worker").peer_id(i)).collect();
        let error = Candidates::new(role("worker"), None, &many).unwrap_err();
        assert!(matches!(error, IdentityError::TooMany { found: 300, .. }));
        let error = Candidates::new(role("db"), None, &many)
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("worker-31 and 268 more"), "{error}");
    }

    fn pinned(
        of: &str,
        configured: Option<Slot>,
        env: &[(&str, &str)],
    ) -> Result<Option<Slot>, IdentityError> {
        let variable = |name: &str| {
            let found = env.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        pin(&role(of), configured, variable)
    }

    #[test]
    fn a_pin_comes_from_the_configuration_or_the_variable_of_the_role() {
        assert_eq!(pinned("worker", None, &[]), Ok(None));
        assert_eq!(pinned("worker", Some(3), &[]), Ok(Some(3)));
        assert_eq!(
            pinned("worker", None, &[("WORKER_ORDINAL", "4")]),
            Ok(Some(4))
        );
        assert_eq!(
            pinned("coordinator", None, &[("COORDINATOR_ORDINAL", "0")]),
            Ok(Some(0))
        );
        assert_eq!(
            pinned("worker", Some(4), &[("WORKER_ORDINAL", "4")]),
            Ok(Some(4))
        );
        let unset = [("WORKER_ORDINAL", ""), ("COORDINATOR_ORDINAL", "")];
        assert_eq!(pinned("worker", Some(3), &unset), Ok(Some(3)));
    }

    #[test]
    fn pins_that_disagree_or_are_for_another_role_are_refused() {
        let error = pinned("worker", Some(3), &[("WORKER_ORDINAL", "4")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "ordinal = 3, but WORKER_ORDINAL = 4: expected one pin"
        );
        let error = pinned("worker", None, &[("COORDINATOR_ORDINAL", "1")]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("COORDINATOR_ORDINAL is set, but"),
            "{error}"
        );
        assert!(pinned("gateway", None, &[("WORKER_ORDINAL", "1")]).is_err());
    }

    #[test]
    fn an_ordinal_is_a_number_as_we_write_it() {
        for text in [
            "-1", "+1", "01", "1 ", " 1", "1.0", "0x1", "65536", "x", "１",
        ] {
            let error = pinned("worker", None, &[("WORKER_ORDINAL", text)]).unwrap_err();
            assert!(
                matches!(error, IdentityError::Ordinal { .. }),
                "{text:?}: {error}"
            );
        }
        assert_eq!(
            pinned("worker", None, &[("WORKER_ORDINAL", "65535")]),
            Ok(Some(65_535))
        );
    }

    #[test]
    fn a_role_is_a_lower_case_word() {
        for text in ["coordinator", "worker", "db2", "a"] {
            assert_eq!(role(text).as_str(), text);
        }
        let long = "a".repeat(33);
        for text in ["", "Worker", "a-b", "2db", "a b", "ä", "a\n", &long] {
            assert!(text.parse::<Role>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_clusters_name_cannot_reach_into_other_keys() {
        assert_eq!(check_cluster("north-1.eu_x"), Ok(()));
        for name in ["", "a/b", "a b", "ä", "a\0", &"a".repeat(65)] {
            assert!(check_cluster(name).is_err(), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn hostile_text_is_refused_or_read_and_messages_stay_short(text in "\\PC{0,300}|.{0,300}") {
            if let Ok(role) = text.parse::<Role>() {
                prop_assert_eq!(split(&role.peer_id(7)), Some((role, 7)));
            }
            if let Err(error) = text.parse::<Role>() {
                prop_assert!(error.to_string().len() < 2000);
            }
            let pin = pin(&Role(WORKER.into()), None, |_| Some(text.clone()));
            match pin {
                Ok(found) => prop_assert!(text.is_empty() && found.is_none()),
                // The coordinators' variable is set as well.
                Err(error) => prop_assert!(error.to_string().len() < 2000),
            }
            let _ = check_cluster(&text);
        }

        #[test]
        fn a_peer_list_gives_ascending_candidates_that_are_all_in_it(
            ids in proptest::collection::vec("(worker|coordinator|x)-?[0-9]{0,4}", 0..40)
        ) {
            let peers: Vec<PeerId> = ids.iter().map(|id| id.parse().unwrap()).collect();
            if let Ok(found) = Candidates::new(role("worker"), None, &peers) {
                prop_assert!(found.slots.is_sorted_by(|a, b| a < b));
                for slot in &found.slots {
                    prop_assert!(peers.contains(&found.peer_id(*slot, &peers).unwrap()));
                }
            }
        }

        #[test]
        fn what_a_role_and_an_ordinal_become_is_taken_apart_again(ordinal: u16) {
            prop_assert_eq!(split(&role("db2").peer_id(ordinal)), Some((role("db2"), ordinal)));
        }
    }
}
