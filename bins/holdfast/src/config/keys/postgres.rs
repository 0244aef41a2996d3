//! The keys of a database (`docs/postgres.md`).

use super::{Form, Key, key, optional, with_default, with_example};

/// The keys of a database, in the order of the example.
pub const POSTGRES: &[Key] = &[
    optional(with_example(
        key(
            "postgres.bin_dir",
            Form::Text,
            "Without this section no database is run; on coordinators it says where one is reached.\n\
             Where PostgreSQL's programs are. Default: the newest below /usr/lib/postgresql.",
        ),
        "\"/usr/lib/postgresql/15/bin\"",
    )),
    with_default(
        key(
            "postgres.patroni",
            Form::Text,
            "Patroni: a path, or a name in PATH or /opt/holdfast/bin.",
        ),
        "\"patroni\"",
    ),
    with_default(
        key(
            "postgres.user",
            Form::Text,
            "Who runs both, and owns the data.",
        ),
        "\"postgres\"",
    ),
    optional(with_example(
        key(
            "postgres.data_dir",
            Form::Text,
            "PostgreSQL's data directory. Default: postgres/data in `state_dir`. The folder above has to be\n\
             the database's user's; it is made so when it is new.",
        ),
        "\"/var/lib/holdfast/postgres/data\"",
    )),
    optional(with_example(
        key(
            "postgres.scope",
            Form::Text,
            "Patroni's scope, the name of this cluster of databases. Default: `cluster`.",
        ),
        "\"north\"",
    )),
    with_default(
        key(
            "postgres.port",
            Form::Integer,
            "PostgreSQL's port on the member's VIP; `allow` has to have it.",
        ),
        "5432",
    ),
    with_default(
        key(
            "postgres.rest_port",
            Form::Integer,
            "The port of Patroni's REST API on the member's VIP; `allow` has to have it.",
        ),
        "8008",
    ),
    with_default(
        key(
            "postgres.synchronous",
            Form::Text,
            "Which commits wait: \"quorum\" for any one of the replicas, \"on\" for the one named\n\
             standby. \"off\": what was acknowledged last is lost when the leader fails.",
        ),
        "\"quorum\"",
    ),
    with_default(
        key(
            "postgres.ttl",
            Form::Text,
            "How long the leader's key lives without a renewal: 20 seconds or more, and at least\n\
             loop_wait + 2 x retry_timeout.",
        ),
        "\"30s\"",
    ),
    with_default(
        key(
            "postgres.loop_wait",
            Form::Text,
            "How often Patroni looks at the cluster, in whole seconds.",
        ),
        "\"10s\"",
    ),
    with_default(
        key(
            "postgres.retry_timeout",
            Form::Text,
            "How long Patroni tries again to reach the KV, or PostgreSQL: 3 seconds or more.",
        ),
        "\"10s\"",
    ),
    with_default(
        key(
            "postgres.maximum_lag_on_failover",
            Form::Text,
            "A replica that is further behind does not become the leader: a number and B, kB, MB or GB.",
        ),
        "\"1MB\"",
    ),
    optional(with_example(
        key(
            "postgres.parameters",
            Form::Map,
            "PostgreSQL's parameters, as in postgresql.conf.",
        ),
        "{ shared_buffers = \"256MB\" }",
    )),
    optional(with_example(
        key(
            "postgres.overlay",
            Form::Text,
            "A file in Patroni's own format that is laid over what is generated;\n\
             `holdfast config show patroni` prints the result.",
        ),
        "\"patroni.yml\"",
    )),
    with_default(
        key(
            "postgres.tls",
            Form::Truth,
            "Whether clients can speak TLS, with certificates of the cluster's own authority.",
        ),
        "true",
    ),
    with_default(
        key(
            "postgres.disk_free_min",
            Form::Text,
            "A disk with less than this free is a full one: no database is started on it.",
        ),
        "\"64MB\"",
    ),
    with_default(
        key(
            "postgres.endpoints.primary",
            Form::Text,
            "Where clients on this machine reach the primary, wherever it is.",
        ),
        "\"127.10.0.1:5432\"",
    ),
    with_default(
        key(
            "postgres.endpoints.replicas",
            Form::Text,
            "Where they reach the replicas, in turn.",
        ),
        "\"127.10.0.2:5432\"",
    ),
    with_default(
        key(
            "postgres.endpoints.lag_max",
            Form::Text,
            "A replica that is further behind is not led to.",
        ),
        "\"16MB\"",
    ),
    with_default(
        key(
            "postgres.endpoints.replicas_fall_back",
            Form::Truth,
            "Whether `replicas` leads to the primary while there is no replica.",
        ),
        "true",
    ),
    with_default(
        key(
            "postgres.endpoints.hold",
            Form::Text,
            "How long a new connection waits for a server before it is closed.",
        ),
        "\"5s\"",
    ),
    with_default(
        key(
            "postgres.endpoints.sessions_max",
            Form::Integer,
            "Sessions through each endpoint at one time, 1 to 65536.",
        ),
        "1000",
    ),
    with_default(
        key(
            "postgres.endpoints.connect_timeout",
            Form::Text,
            "How long a connect to a server may take.",
        ),
        "\"3s\"",
    ),
    with_default(
        key(
            "postgres.endpoints.check.interval",
            Form::Text,
            "How often every member's Patroni is asked what it is.",
        ),
        "\"500ms\"",
    ),
    with_default(
        key(
            "postgres.endpoints.check.timeout",
            Form::Text,
            "How long it may take to answer.",
        ),
        "\"1s\"",
    ),
    with_default(
        key(
            "postgres.endpoints.check.rise",
            Form::Integer,
            "So many good answers in a row make a member up, 1 to 100.",
        ),
        "1",
    ),
    with_default(
        key(
            "postgres.endpoints.check.fall",
            Form::Integer,
            "So many bad answers in a row make it down, 1 to 100.",
        ),
        "2",
    ),
];
