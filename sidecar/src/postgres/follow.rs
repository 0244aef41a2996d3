//! What the cluster says of itself: into the status, and as role tags of the registered service.

use holdfast_postgres::{PostgresStatus, Role};
use tokio::sync::watch;

use super::SERVICE;
use crate::registration::{Wanted, set_role};
use crate::status::Shared;

/// This is what the database of this machine is from now on.
pub(super) fn role(wanted: &watch::Sender<Wanted>, role: Role) {
    let tags = match role {
        Role::Primary => vec!["primary".to_owned()],
        Role::Replica => vec!["replica".to_owned()],
        Role::Unknown => Vec::new(),
    };
    tracing::info!(?tags, "the role of the database here");
    set_role(wanted, SERVICE, tags);
}

/// This is what is known of the cluster from now on.
pub(super) fn status(shared: &Shared, now: PostgresStatus) {
    shared.update(|status| {
        let known = status.postgres.get_or_insert_default();
        // Those are told by the endpoints themselves.
        let endpoints = std::mem::take(&mut known.endpoints);
        *known = PostgresStatus { endpoints, ..now };
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_postgres::EndpointStatus;

    #[test]
    fn a_role_is_a_tag_and_no_role_is_none() {
        let (wanted, seen) = watch::channel(Wanted::default());
        let tags = || {
            seen.borrow()
                .roles
                .get(SERVICE)
                .cloned()
                .unwrap_or_default()
        };
        role(&wanted, Role::Primary);
        assert_eq!(tags(), ["primary"]);
        role(&wanted, Role::Replica);
        assert_eq!(tags(), ["replica"]);
        role(&wanted, Role::Unknown);
        assert!(tags().is_empty());
    }

    #[test]
    fn what_the_cluster_says_leaves_the_endpoints_alone() {
        let shared = Shared::default();
        let endpoint = EndpointStatus {
            sessions: 3,
            ..EndpointStatus::default()
        };
        let before = PostgresStatus {
            endpoints: vec![endpoint.clone()],
            ..PostgresStatus::default()
        };
        shared.update(|status| status.postgres = Some(before));
        let now = PostgresStatus {
            scope: "north".to_owned(),
            ..PostgresStatus::default()
        };
        status(&shared, now);
        let found = shared
            .view(|status| status.postgres.clone())
            .unwrap_or_default();
        assert_eq!(
            (found.scope.as_str(), found.endpoints),
            ("north", vec![endpoint])
        );
    }
}
