"""Drives patroni.dcs.consul.Consul through what a cluster does to its key-value store."""

import json
import sys
import threading
import time

from patroni.dcs import get_dcs


def member(name, scope="north", ttl=30):
    return get_dcs({
        "name": name, "scope": scope, "ttl": ttl, "loop_wait": 10, "retry_timeout": 10,
        "consul": {"host": sys.argv[1], "register_service": True},
    })


def check(what, truth):
    assert truth, what
    print("ok:", what)


def data(role, name):
    return {
        "role": role, "state": "running", "version": "4",
        "conn_url": "postgres://127.0.0.1:5432/postgres",
        "api_url": "http://127.0.0.1:8008/patroni", "xlog_location": 1, "name": name,
    }


one, two = member("one"), member("two")
check("an empty cluster is empty", one.get_cluster().is_empty())

check("one wins the race to initialize", one.initialize(create_new=True))
check("two loses it", two.initialize(create_new=True) is False)
check("the system id is set", one.initialize(create_new=False, sysid="7000"))
check("the configuration is set", one.set_config_value(json.dumps({"ttl": 30})))
cluster = one.get_cluster()
check("both are read", cluster.initialize == "7000" and cluster.config.data == {"ttl": 30})
check("an old version changes no configuration",
      not one.set_config_value("{}", cluster.config.modify_version + 1))
check("the right one does", one.set_config_value("{}", cluster.config.modify_version))

check("one becomes the leader", one.attempt_to_acquire_leader())
check("two does not", two.attempt_to_acquire_leader() is False)
check("one announces itself", one.touch_member(data("primary", "one")))
two.get_cluster()
check("two announces itself", two.touch_member(data("replica", "two")))
cluster = two.get_cluster()
check("two sees the leader and both members",
      cluster.leader.name == "one" and {m.name for m in cluster.members} == {"one", "two"})
services = two._client.agent.services()
check("both are registered as services", set(services) == {"north/one", "north/two"})
check("the leader carries its tag", "master" in services["north/one"]["Tags"])

cluster = one.get_cluster()
check("the leader renews", one.update_leader(cluster, 1234, None, {"one": "http://127.0.0.1:8008"}))
cluster = two.get_cluster()
check("its position is read", cluster.status.last_lsn == 1234)
check("its fail-safe members are read", cluster.failsafe == {"one": "http://127.0.0.1:8008"})

state = two.set_sync_state_value(json.dumps({"leader": "one", "sync_standby": "two"}))
check("the synchronous state is set, and its version is told", state and state is not True)
sync = two.get_cluster().sync
check("it is read", sync.version == state and sync.leader == "one")
check("an old version deletes nothing", not two.delete_sync_state(version=int(state) + 1))
check("the right one does", two.delete_sync_state(version=state))
check("the history is set", one.set_history_value(json.dumps([[1, 1234, "no reason"]])))
check("a failover is asked for", one.set_failover_value(json.dumps({"leader": "one", "member": "two"})))
check("it is read", two.get_cluster().failover.candidate == "two")
check("it is taken back", one.set_failover_value("{}", two.get_cluster().failover.version))


def watch(follower, version, do, at_most=8.0):
    """How long a watch took that `do` should end."""
    timer = threading.Timer(0.3, do)
    begun = time.monotonic()
    timer.start()
    changed = follower.watch(version, at_most)
    timer.join()
    return changed, time.monotonic() - begun


two.watch(None, 0.001)
version = two.get_cluster().leader.version
begun = time.monotonic()
check("a watch that sees nothing ends in time", not two.watch(version, 1.0))
check("and not much later", 0.9 < time.monotonic() - begun < 3)

# The leader is gone: somebody proves it and ends its session.
session = two.get_cluster().leader.session
changed, took = watch(two, version, lambda: two._client.session.destroy(session))
check("the end of its session wakes the follower (%.3f s)" % took, changed and took < 1.5)
cluster = two.get_cluster()
check("its leader key is gone, and it from the members",
      cluster.is_unlocked() and {m.name for m in cluster.members} == {"two"})
time.sleep(0.01)  # the lock delay that Patroni asks for is 1 ms
check("two takes over", two.attempt_to_acquire_leader())
check("one cannot take it back", one.attempt_to_acquire_leader() is False)
one.get_cluster()
check("one returns as a member", one.touch_member(data("replica", "one")))

# A planned hand-over.
version = one.get_cluster().leader.version
changed, took = watch(one, version, lambda: two.delete_leader(two.get_cluster().leader, 5678))
check("giving up the lead wakes the follower (%.3f s)" % took, changed and took < 1.5)
check("the last position stays", one.get_cluster().status.last_lsn == 5678)
check("one leads again", one.attempt_to_acquire_leader())

# A TTL below what Consul takes: Patroni reads the refusal and adapts.
short = member("short", ttl=12)
check("a TTL that is too short is adapted", short.ttl == 20)

check("the cluster is removed", one.delete_cluster() and one.get_cluster().is_empty())
print("all steps passed")
