//! Checks that compare keys with each other, and core's own, told with file and line.

use holdfast_core::config::{
    ALLOW_RULES_MAX, Config, ConfigError, Congestion, PeerConfig, TurnServer,
};
use holdfast_core::identity::ClusterSecret;
use holdfast_core::types::{PeerId, Vip};

use super::problem::Problem;
use super::read::{Draft, PeerDraft, bare, peer_config};
use super::settings::KeySource;
use super::source::Origin;

/// Compare, and give what follows from several keys: this node's virtual address, where its
/// key comes from, and the other nodes.
pub fn check(
    draft: &Draft,
    brokers: usize,
    problems: &mut Vec<Problem>,
) -> (Option<Vip>, Option<KeySource>, Vec<PeerConfig>) {
    let before = problems.len();
    if !draft.is_given("id") {
        let expected = "this node's name";
        problems.push(Problem::new(&draft.whole, "id", "nothing", expected));
    }
    let key = key_source(draft, problems);
    let own = own_entry(draft);
    let vip = own_vip(draft, own, problems);
    check_own_key(draft, own, key.as_ref(), problems);
    let peers = other_peers(draft, own, problems);
    check_forward(draft, problems);
    if brokers == 0 && !has_problem(problems, "brokers") {
        let expected = "at least one broker: without it no peer can be found";
        let origin = draft.origin("brokers");
        problems.push(Problem::new(origin, "brokers", "nothing", expected));
    }
    if draft.peers.len() <= usize::from(own.is_some()) && !has_problem(problems, "peers") {
        let problem = Problem::new(draft.origin("peers"), "peers", "nobody", "the other nodes");
        problems.push(problem.warning());
    }
    core_problems(draft, vip, key.as_ref(), &peers, before, problems);
    (vip, key, peers)
}

fn has_problem(problems: &[Problem], key: &str) -> bool {
    problems.iter().any(|problem| {
        problem
            .key
            .strip_prefix(key)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['[', '.']))
    })
}

fn key_source(draft: &Draft, problems: &mut Vec<Problem>) -> Option<KeySource> {
    if !draft.is_given("key_file") && !draft.is_given("cluster_secret_file") {
        let problem = Problem::new(
            &draft.whole,
            "cluster_secret_file",
            "nothing",
            "the file of the secret that all nodes share, or `key_file` with this node's own key",
        );
        problems.push(problem.help("`holdfast keys secret --out FILE` makes a cluster secret"));
    }
    if draft.is_given("key_file") {
        return draft.own.clone();
    }
    let (file, secret) = draft.cluster.clone()?;
    Some(KeySource::Cluster { file, secret })
}

/// This node's own entry in the list of peers: the first with its name.
fn own_entry(draft: &Draft) -> Option<&PeerDraft> {
    let id = draft.id.as_ref()?;
    draft.peers.iter().find(|peer| peer.id.as_ref() == Some(id))
}

fn own_vip(draft: &Draft, own: Option<&PeerDraft>, problems: &mut Vec<Problem>) -> Option<Vip> {
    let listed = own.and_then(|own| own.vip);
    if let (Some(vip), Some(listed), Some(own)) = (draft.vip, listed, own)
        && vip != listed
    {
        problems.push(Problem::new(
            draft.origin("vip"),
            "vip",
            vip.octet().to_string(),
            format!(
                "{}, as {} of this node's own entry says ({})",
                listed.octet(),
                own.path,
                own.origin
            ),
        ));
    }
    if !draft.is_given("vip") && own.is_none() {
        let id = draft.id.as_ref();
        let expected = match id {
            Some(id) => format!("this node's vip, or an entry for {id} in the peers"),
            None => "this node's vip, or an entry for it in the peers".to_owned(),
        };
        problems.push(Problem::new(&draft.whole, "vip", "nothing", expected));
    }
    draft.vip.or(listed)
}

/// A key in this node's own entry is what the others will expect of it.
fn check_own_key(
    draft: &Draft,
    own: Option<&PeerDraft>,
    source: Option<&KeySource>,
    problems: &mut Vec<Problem>,
) {
    let (Some(id), Some(own), Some(source)) = (&draft.id, own, source) else {
        return;
    };
    let public = source.identity(id).public();
    if let Some(key) = own.key.filter(|key| *key != public) {
        let path = format!("{}.key", own.path);
        let expected = format!("{public}, the {}", source.describe());
        problems.push(Problem::new(
            draft.origin(&path),
            path.as_str(),
            key.to_string(),
            expected,
        ));
    }
}

fn other_peers(
    draft: &Draft,
    own: Option<&PeerDraft>,
    problems: &mut Vec<Problem>,
) -> Vec<PeerConfig> {
    let cluster = draft.cluster.as_ref().map(|(_, secret)| secret);
    let mut peers = Vec::new();
    for peer in &draft.peers {
        if own.is_some_and(|own| std::ptr::eq(own, peer)) {
            continue;
        }
        let key_path = format!("{}.key", peer.path);
        if !draft.is_given(&key_path) && !draft.is_given("cluster_secret_file") {
            problems.push(Problem::new(
                &peer.origin,
                key_path,
                "nothing",
                "the peer's public key, since there is no `cluster_secret_file` to derive it from",
            ));
        }
        peers.extend(peer_config(peer, cluster));
    }
    peers
}

/// Each port would be listened on twice.
fn check_forward(draft: &Draft, problems: &mut Vec<Problem>) {
    if draft.forward.len() > ALLOW_RULES_MAX {
        let found = format!("{} rules", draft.forward.len());
        let expected = format!("at most {ALLOW_RULES_MAX}");
        let origin = draft.origin("forward");
        problems.push(Problem::new(origin, "forward", found, expected));
        return;
    }
    for (index, (path, rule)) in draft.forward.iter().enumerate() {
        let earlier = &draft.forward[..index];
        if earlier.iter().any(|(_, other)| other.port == rule.port) {
            let key = format!("{path}.port");
            let found = format!("{} again", rule.port);
            let origin = draft.origin(&key);
            problems.push(Problem::new(origin, key.as_str(), found, "every port once"));
        }
    }
}

/// Core's own checks. What could not be read is replaced by something harmless, so that the
/// rest is checked all the same.
fn core_problems(
    draft: &Draft,
    vip: Option<Vip>,
    key: Option<&KeySource>,
    peers: &[PeerConfig],
    before: usize,
    problems: &mut Vec<Problem>,
) {
    // Keys that stand in for unreadable ones differ from each other, as real ones do.
    let stand_in = ClusterSecret::new(vec![0; 32]).expect("32 bytes are a valid length");
    let id = draft.id.clone().unwrap_or_else(|| {
        let free = |id: &PeerId| peers.iter().all(|peer| peer.id != *id);
        (0..=peers.len())
            .filter_map(|n| format!("this-node-{n}").parse().ok())
            .find(free)
            .expect("one more name than there are peers")
    });
    let listed: Vec<PeerConfig> = match peers.is_empty() {
        // Without any key source no peer could be completed.
        true => draft
            .peers
            .iter()
            .filter(|peer| peer.id.as_ref() != Some(&id))
            .filter_map(|peer| peer_config(peer, Some(&stand_in)))
            .collect(),
        false => peers.to_vec(),
    };
    let vip = vip.or_else(|| {
        (1..=254)
            .filter_map(|octet| Vip::new(octet).ok())
            .find(|vip| listed.iter().all(|peer| peer.vip != *vip))
    });
    let Some(vip) = vip else {
        return;
    };
    let unspecified = ([0, 0, 0, 0], 1).into();
    let config = Config {
        identity: key.map_or_else(|| stand_in.identity(&id), |key| key.identity(&id)),
        id,
        vip,
        peers: listed,
        allow: bare(&draft.allow),
        udp_port: 0,
        stun: draft.stun.iter().map(|_| unspecified).collect(),
        turn: draft
            .turn
            .iter()
            .map(|turn| TurnServer {
                addr: unspecified,
                transport: turn.url.transport,
                credentials: turn.credentials.clone(),
            })
            .collect(),
        paths: draft.paths,
        congestion: Congestion::default(),
        limits: draft.limits,
    };
    for error in config.problems() {
        let problem = locate(draft, &config, &error);
        // A key that could not be read at all has been told already.
        if !has_problem(&problems[..before], &problem.key) {
            problems.push(problem);
        }
    }
}

/// Which key a contradiction is about, and where that key came from.
fn locate(draft: &Draft, config: &Config, error: &ConfigError) -> Problem {
    let at = |key: String, found: String, expected: String| {
        Problem::new(draft.origin(&key), key, found, expected)
    };
    let of_peer = |id: &PeerId, field: &str| {
        let last = draft.peers.iter().rev().find(|p| p.id.as_ref() == Some(id));
        last.map(|peer| format!("{}.{field}", peer.path))
    };
    match error {
        ConfigError::SelfAsPeer { id } | ConfigError::DuplicatePeer { id } => {
            let key = of_peer(id, "id").unwrap_or_else(|| "peers".to_owned());
            at(
                key,
                format!("{:?} again", id.as_str()),
                "every name once".to_owned(),
            )
        }
        ConfigError::DuplicateVip { vip, first, second } => {
            let key = of_peer(second, "vip").unwrap_or_else(|| "vip".to_owned());
            let expected = format!("a vip of its own: {first} has {}", vip.octet());
            let expected = match config.id == *first {
                true => format!("{expected}, and is this node"),
                false => expected,
            };
            at(key, vip.octet().to_string(), expected)
        }
        ConfigError::DuplicateKey { first, second } => {
            let key = of_peer(second, "key").unwrap_or_else(|| "peers".to_owned());
            at(
                key,
                format!("the key of {first} again"),
                format!("the key of {second}"),
            )
        }
        ConfigError::DuplicatePort { port } => {
            let last = draft.allow.iter().rev().find(|(_, r)| r.port == *port);
            let last = last.map(|(path, _)| format!("{path}.port"));
            let key = last.unwrap_or_else(|| "allow".to_owned());
            at(key, format!("{port} again"), "every port once".to_owned())
        }
        ConfigError::Limit {
            key,
            found,
            expected,
        } => at(
            format!("limits.{key}"),
            found.to_string(),
            (*expected).to_owned(),
        ),
        ConfigError::RelayOnlyWithoutTurn => at(
            "turn".to_owned(),
            "no TURN server".to_owned(),
            format!(
                "at least one, since `paths` is \"relay-only\" ({})",
                shown(draft.origin("paths"))
            ),
        ),
        ConfigError::TooManyServers { what, .. } => {
            counted(draft, &what.to_ascii_lowercase(), error)
        }
        ConfigError::TooManyPeers { .. } => counted(draft, "peers", error),
        ConfigError::TooManyRules { .. } | ConfigError::PortZero => counted(draft, "allow", error),
    }
}

/// Core's own words, split at its "expected".
fn counted(draft: &Draft, key: &str, error: &ConfigError) -> Problem {
    let message = error.to_string();
    let (found, expected) = message
        .split_once(": expected ")
        .unwrap_or((&message, "less"));
    Problem::new(draft.origin(key), key, found, expected)
}

fn shown(origin: &Origin) -> String {
    origin.to_string()
}
