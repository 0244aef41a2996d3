//! What Patroni is told in the baseline, where no sidecar tells it: the same.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use holdfast_core::types::{PeerId, Vip};
use holdfast_plan::drill::{Drill, Synchronous as Wanted};
use holdfast_postgres::generate::{REST_USER, generate};
use holdfast_postgres::{Credentials, EndpointSettings, KvPlace, Place, Settings, Synchronous};

use super::ground::{Logins, Member, REST_PORT, SCOPE, SQL_PORT};
use super::tools::{Tools, USER};
use crate::stage::StageError;

/// What the superuser of the baseline says.
const SUPERUSER_PASSWORD: &str = "drill-superuser";
/// What changes something over its REST API says.
const REST_PASSWORD: &str = "drill-rest";

/// Of the whole cluster.
pub fn logins() -> Logins {
    Logins {
        superuser: SUPERUSER_PASSWORD.to_owned(),
        rest: (REST_USER.to_owned(), REST_PASSWORD.to_owned()),
    }
}

/// Nothing of our own environment configures it, and its log has times in UTC.
pub fn environment(command: &mut Command) {
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC");
}

/// The file, as a sidecar would write it, but for what three in one namespace cannot have: they
/// cannot all listen on 127.0.0.1, and are reached from there and not from the other's address.
///
/// # Errors
/// What of the drill's settings no Patroni would take.
pub fn config(
    drill: &Drill,
    member: &Member,
    kv: SocketAddr,
    home: &Path,
    tools: &Tools,
) -> Result<String, StageError> {
    let octet = match member.sql {
        SocketAddr::V4(at) => at.ip().octets()[3],
        SocketAddr::V6(_) => 0,
    };
    let invalid = |why: String| StageError::Drill(format!("Patroni's configuration: {why}"));
    let id: PeerId = member
        .name
        .parse()
        .map_err(|_| invalid(member.name.clone()))?;
    let vip = Vip::new(u16::from(octet)).map_err(|error| invalid(error.to_string()))?;
    let place = Place {
        cluster: "lab".to_owned(),
        instance: "baseline".to_owned(),
        members: vec![(id.clone(), vip)],
        id,
        vip,
        kv: KvPlace {
            address: format!("http://{kv}"),
            token: None,
            ca_file: None,
        },
        run_dir: home.to_owned(),
    };
    let secret = |text: &str| text.to_owned().into();
    let credentials = Credentials {
        superuser: secret(SUPERUSER_PASSWORD),
        replication: secret("drill-replication"),
        rewind: secret("drill-rewind"),
        rest: secret(REST_PASSWORD),
        ca: [7; 32].into(),
    };
    let generated = generate(&settings(drill, member, tools), &place, &credentials);
    let generated = generated.map_err(|error| invalid(error.to_string()))?;
    let text = generated.yaml.replace(",127.0.0.1:", ":");
    Ok(text.replace("127.50.0.0/24", "127.0.0.0/8"))
}

fn settings(drill: &Drill, member: &Member, tools: &Tools) -> Settings {
    let database = &drill.database;
    Settings {
        bin_dir: tools.postgres.clone(),
        patroni: tools.patroni.clone(),
        user: USER.to_owned(),
        data_dir: member.data.clone(),
        scope: SCOPE.to_owned(),
        port: SQL_PORT,
        rest_port: REST_PORT,
        synchronous: match database.synchronous {
            Wanted::Quorum => Synchronous::Quorum,
            Wanted::On => Synchronous::On,
            Wanted::Off => Synchronous::Off,
        },
        ttl: database.ttl,
        loop_wait: database.loop_wait,
        retry_timeout: database.retry_timeout,
        maximum_lag_on_failover: 1 << 20,
        parameters: database
            .parameters
            .iter()
            .cloned()
            .collect::<BTreeMap<_, _>>(),
        overlay: None,
        // The writers use none, here and there.
        tls: false,
        disk_free_min: 64 << 20,
        endpoints: EndpointSettings::default(),
    }
}
