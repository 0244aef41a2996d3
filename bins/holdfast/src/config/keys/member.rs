//! The keys that make a member of a cluster (`holdfast bootstrap`, `holdfast sidecar`).

use super::{CHILD_FIELDS, Form, Key, SERVICE_FIELDS, key, optional, with_default, with_example};

/// The keys of a member, in the order of the example: tables and sections last.
pub const MEMBER: &[Key] = &[
    with_example(
        key(
            "cluster",
            Form::Text,
            "The cluster's name. The slots are the entries cluster/NAME/slots/ORDINAL of the KV.",
        ),
        "\"north\"",
    ),
    with_example(
        key(
            "role",
            Form::Text,
            "What this machine is: \"coordinator\", which runs the KV, \"worker\", or another word.\n\
             Its name among the peers is ROLE-ORDINAL.",
        ),
        "\"worker\"",
    ),
    optional(with_example(
        key(
            "ordinal",
            Form::Integer,
            "Own this slot, rather than claim a free one: a coordinator has to, as the KV runs on it.\n\
             WORKER_ORDINAL and COORDINATOR_ORDINAL are read too, each by its role.",
        ),
        "4",
    )),
    with_default(
        key(
            "state_dir",
            Form::Text,
            "What survives a restart: the instance, and the data of the KV and of Consul.",
        ),
        "\"/var/lib/holdfast\"",
    ),
    with_default(
        key(
            "run_dir",
            Form::Text,
            "Where info.json is written: who this machine is.",
        ),
        "\"/run/instance\"",
    ),
    with_default(
        key(
            "secrets_dir",
            Form::Text,
            "Where the derived secrets are written; mode 0700.\n\
             HOLDFAST_SECRET_NAME gives one from outside: HOLDFAST_SECRET_CLUSTER_SECRET, …",
        ),
        "\"/run/secrets\"",
    ),
    with_default(
        key(
            "hosts_file",
            Form::Text,
            "Where the names of the peers are written. \"\" leaves it alone.",
        ),
        "\"/etc/hosts\"",
    ),
    with_default(
        key(
            "tee.kind",
            Form::Text,
            "\"dstack\", the guest agent of a TDX machine, or \"plain\", a key file.",
        ),
        "\"dstack\"",
    ),
    with_default(
        key(
            "tee.endpoint",
            Form::Text,
            "The guest agent: unix:PATH or http://host:port.",
        ),
        "\"unix:/var/run/dstack.sock\"",
    ),
    optional(with_example(
        key(
            "tee.key_file",
            Form::Text,
            "With \"plain\": 64 hexadecimal digits that everything is derived from, the same on every machine;\n\
             mode 0400. `holdfast keys secret` makes it.",
        ),
        "\"instance.key\"",
    )),
    with_default(
        key(
            "tee.patience",
            Form::Text,
            "How long to go on asking a guest agent that does not answer.",
        ),
        "\"60s\"",
    ),
    with_example(
        key(
            "kv.addresses",
            Form::Texts,
            "Where the KV is reached without the mesh: http or https. Whichever answers is used.\n\
             Not needed where `ordinal` is given.",
        ),
        "[\"http://203.0.113.20:8500\", \"http://203.0.113.21:8500\"]",
    ),
    optional(with_example(
        key(
            "kv.token_file",
            Form::Text,
            "The ACL token for the KV; mode 0400.",
        ),
        "\"consul.token\"",
    )),
    optional(with_example(
        key(
            "kv.ca_file",
            Form::Text,
            "Certificates, PEM, that https addresses are checked against.",
        ),
        "\"consul-ca.pem\"",
    )),
    with_default(
        key(
            "slots.lease",
            Form::Text,
            "How long a slot stays with an owner who cannot renew: 1 second to a day.",
        ),
        "\"10m\"",
    ),
    with_default(
        key(
            "slots.patience",
            Form::Text,
            "How long to wait for a free slot. \"0s\": for ever.",
        ),
        "\"0s\"",
    ),
    with_default(
        key(
            "consul.program",
            Form::Text,
            "Without this section no Consul agent is run. On a coordinator it is a server.",
        ),
        "\"consul\"",
    ),
    with_default(
        key("consul.datacenter", Form::Text, "Consul's datacenter."),
        "\"dc1\"",
    ),
    with_default(
        key(
            "consul.raft_multiplier",
            Form::Integer,
            "Consul's raft_multiplier, 1 to 10: how patient its servers are with each other.",
        ),
        "2",
    ),
    optional(with_example(
        key(
            "consul.user",
            Form::Text,
            "Who runs the agent, if not the sidecar's own user.",
        ),
        "\"consul\"",
    )),
    optional(with_example(
        key(
            "services",
            Form::Tables(SERVICE_FIELDS),
            "Services to register with the agent. SERVICES_JSON is read too.\n\
             `check` is { child = \"NAME\" } or { http = \"URL\" }.",
        ),
        "[[services]]\n\
         name = \"postgres\"\n\
         port = 5432\n\
         vip = 10",
    )),
    optional(with_example(
        key(
            "children",
            Form::Tables(CHILD_FIELDS),
            "What this machine is there for: processes that are started, watched and started again.\n\
             `after` names children, \"mesh\", \"consul\", \"patroni\" or \"endpoints\"; `ready` is an http:// URL or tcp:HOST:PORT.",
        ),
        "[[children]]\n\
         name = \"app\"\n\
         command = [\"/usr/local/bin/app\", \"--serve\"]\n\
         user = \"app\"\n\
         after = [\"mesh\"]\n\
         ready = \"http://127.0.0.1:8080/healthz\"\n\
         env = [\"KEY=value\"]\n\
         dir = \"/srv/app\"\n\
         stop_signal = \"TERM\"\n\
         stop_deadline = \"10s\"\n\
         max_restarts = 5\n\
         window = \"60s\"\n\
         one_shot = false",
    )),
];
