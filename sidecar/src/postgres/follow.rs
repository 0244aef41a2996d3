//! What the cluster says of itself: into the status, and as role tags of the registered service.

use holdfast_postgres::{PostgresStatus, Role};
use tokio::sync::watch;

use super::SERVICE;
use crate::registration::{Wanted, set_role};
use crate::status::Shared;

/// Follow until nobody tells any more.
pub(super) async fn follow(
    mut seen: watch::Receiver<PostgresStatus>,
    shared: Shared,
    wanted: watch::Sender<Wanted>,
) {
    loop {
        let now = seen.borrow_and_update().clone();
        set_role(&wanted, SERVICE, tags(now.role));
        shared.update(|status| {
            let known = status.postgres.get_or_insert_with(PostgresStatus::default);
            // Those are told by the endpoints themselves.
            let endpoints = std::mem::take(&mut known.endpoints);
            *known = PostgresStatus { endpoints, ..now };
        });
        if seen.changed().await.is_err() {
            return;
        }
    }
}

fn tags(role: Role) -> Vec<String> {
    match role {
        Role::Primary => vec!["primary".to_owned()],
        Role::Replica => vec!["replica".to_owned()],
        Role::Unknown => Vec::new(),
    }
}
