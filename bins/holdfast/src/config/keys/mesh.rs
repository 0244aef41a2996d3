//! The keys that make a node of the mesh.

use super::{
    ALLOW_FIELDS, Form, Key, PEER_FIELDS, TURN_FIELDS, key, optional, with_default, with_example,
};

/// The keys of a node, in the order of the example: tables and sections last, as TOML needs it.
pub const MESH: &[Key] = &[
    with_example(
        key(
            "id",
            Form::Text,
            "This node's name, unique in the cluster: letters, digits, '-', '_', '.'.",
        ),
        "\"node-1\"",
    ),
    optional(with_example(
        key(
            "vip",
            Form::Integer,
            "The last octet of this node's address in 127.50.0.0/24, 1 to 254.\n\
             May be left out if the peers below list this node too.",
        ),
        "1",
    )),
    with_example(
        key(
            "cluster_secret_file",
            Form::Text,
            "The secret that all nodes share and derive their keys from; mode 0400.\n\
             `holdfast keys secret` makes one. A relative path starts at this file's folder.",
        ),
        "\"cluster.secret\"",
    ),
    optional(with_example(
        key(
            "key_file",
            Form::Text,
            "This node's own key instead of a derived one; mode 0400.\n\
             `holdfast keys node` makes one. The others need `key` in their entry for this node.",
        ),
        "\"node.key\"",
    )),
    with_example(
        key(
            "brokers",
            Form::Texts,
            "Signaling brokers (`holdfast rendezvous`). Whichever answers is used; name two.",
        ),
        "[\"http://203.0.113.10:7000\", \"http://203.0.113.11:7000\"]",
    ),
    with_default(
        with_example(
            key(
                "stun",
                Form::Texts,
                "STUN servers, host:port: they tell the node its public address. At most 4.",
            ),
            "[\"203.0.113.10:3478\"]",
        ),
        "[]",
    ),
    with_default(
        key(
            "listen",
            Form::Text,
            "The address of the one UDP socket for all links. Port 0: any free one.",
        ),
        "\"0.0.0.0:0\"",
    ),
    with_default(
        key(
            "admin",
            Form::Text,
            "Where /status, /metrics, /healthz and /readyz are served. Nobody is asked who\n\
             they are, so keep it on loopback.",
        ),
        "\"127.0.0.1:7070\"",
    ),
    with_default(
        key(
            "paths",
            Form::Text,
            "\"all\", or \"relay-only\": only through TURN servers.",
        ),
        "\"all\"",
    ),
    with_default(
        key(
            "congestion",
            Form::Text,
            "Congestion control of all links: \"bbr\" holds its rate under loss, \"cubic\".",
        ),
        "\"bbr\"",
    ),
    with_default(
        key(
            "dump_dir",
            Form::Text,
            "Where the flight recorder is written on an error or SIGUSR1.",
        ),
        "\"/var/lib/holdfast/dumps\"",
    ),
    with_default(
        key(
            "shutdown_grace",
            Form::Text,
            "How long streams may end by themselves after SIGTERM: a number and ms, s or m.",
        ),
        "\"5s\"",
    ),
    with_default(
        key(
            "log",
            Form::Text,
            "What is logged: a level, or levels by target (\"info,holdfast_io=debug\"). A bare level\n\
             is Holdfast's own; libraries are heard from \"warn\" up.",
        ),
        "\"info\"",
    ),
    with_default(
        key(
            "log_format",
            Form::Text,
            "\"human\", \"json\", or \"auto\": human on a terminal, JSON otherwise.",
        ),
        "\"auto\"",
    ),
    with_default(
        key(
            "limits.streams_per_link",
            Form::Integer,
            "TCP streams that one peer may have open on this node, 1 to 65536.",
        ),
        "1024",
    ),
    with_default(
        key(
            "limits.stream_window",
            Form::Integer,
            "Bytes of one stream that may arrive ahead of its reader.",
        ),
        "2097152",
    ),
    with_default(
        key(
            "limits.send_window",
            Form::Integer,
            "Bytes that one link may have sent and not yet seen acknowledged.",
        ),
        "16777216",
    ),
    with_default(
        key(
            "limits.datagram_buffer",
            Form::Integer,
            "Bytes of UDP payload queued on one link; beyond it the oldest are dropped.",
        ),
        "1048576",
    ),
    with_default(
        key(
            "limits.mtu_max",
            Form::Integer,
            "The largest UDP payload that path MTU discovery tries, in bytes.",
        ),
        "1452",
    ),
    with_default(
        key(
            "limits.path_loss_grace",
            Form::Text,
            "How long streams are held while a link has no path at all.",
        ),
        "\"20s\"",
    ),
    with_default(
        key(
            "limits.recorder_len",
            Form::Integer,
            "Records that the flight recorder keeps.",
        ),
        "4096",
    ),
    with_example(
        key(
            "allow",
            Form::Tables(ALLOW_FIELDS),
            "Ports of this node that peers may reach: TCP always, UDP with `udp = true`.\n\
             MESH_CONN_ALLOWLIST is read too.",
        ),
        "[[allow]]\nport = 5432\n\n[[allow]]\nport = 8301\nudp = true",
    ),
    optional(with_example(
        key(
            "forward",
            Form::Tables(ALLOW_FIELDS),
            "Ports of all peers that applications here can reach, on 127.50.0.VIP.\n\
             Default: the same as `allow`, since nodes of one deployment open the same ports.",
        ),
        "[[forward]]\nport = 5432\n\n[[forward]]\nport = 8301\nudp = true",
    )),
    optional(with_example(
        key(
            "turn",
            Form::Tables(TURN_FIELDS),
            "TURN servers, best first, at most 4. Either `secret_file`, the secret that the\n\
             server shares (time-limited credentials), or `username` and `password_file`.",
        ),
        "[[turn]]\nurl = \"turn:203.0.113.10:3478?transport=udp\"\nsecret_file = \"turn.secret\"\n\n\
         [[turn]]\nurl = \"turn:203.0.113.10:3478?transport=tcp\"\nusername = \"holdfast\"\n\
         password_file = \"turn.password\"",
    )),
    with_example(
        key(
            "peers",
            Form::Tables(PEER_FIELDS),
            "All nodes; this one may be among them. PEERS_JSON is read too. `key`, 64\n\
             hexadecimal digits, is needed only without a cluster secret.",
        ),
        "[[peers]]\nid = \"node-1\"\nvip = 1\n\n[[peers]]\nid = \"node-2\"\nvip = 2",
    ),
];
