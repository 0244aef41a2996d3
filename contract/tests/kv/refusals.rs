//! What Consul refuses, and what is no Consul: the kinds that somebody acts on.

use std::net::{Ipv4Addr, TcpListener};

use holdfast_io::kv::consul::{Config, Token};
use holdfast_io::kv::{
    Behavior, Condition, Consistency, Failure, FailureKind, Kv, NewSession, Request,
};
use libtest_mimic::Trial;
use zeroize::Zeroizing;

use super::consul::{leaderless, plain, secure_config};
use super::real::{RealConsul, client, run};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "kv/consul-tls-acl/a_refused_token_is_forbidden_and_not_shown",
            || {
                run(&secure_config, |_| async {
                    let mut config = config();
                    let token = "6f1c0000-0000-4000-8000-5ec7e7000000";
                    config.token = Some(Token::new(&Zeroizing::new(token.to_owned())).unwrap());
                    for failure in refusals(&client(config)).await {
                        assert!(!failure.message.contains(token), "{failure}");
                    }
                })
            },
        ),
        Trial::test(
            "kv/consul-tls-acl/without_a_token_nothing_is_written",
            || {
                run(&secure_config, |good| async move {
                    let config = Config {
                        token: None,
                        ..config()
                    };
                    let failure = ask(&client(config), write()).await.unwrap_err();
                    assert_eq!(failure.kind, FailureKind::Forbidden, "{failure}");
                    assert!(failure.is_determinate());
                    let there = good.call(Request::get("refused")).await.unwrap();
                    assert!(format!("{there:?}").contains("entry: None"), "{there:?}");
                })
            },
        ),
        Trial::test(
            "kv/consul-tls-acl/a_server_of_another_authority_is_not_spoken_to",
            || {
                run(&secure_config, |_| async {
                    // HTTPS towards a server that speaks HTTP, and the other way round.
                    let (Ok(plain), secure) = (plain(), config()) else {
                        panic!("the other server does not run");
                    };
                    let mut crossed = secure.clone();
                    crossed.addresses[0].endpoint = plain.addresses[0].endpoint.clone();
                    let failure = ask(&client(crossed), write()).await.unwrap_err();
                    assert_eq!(failure.kind, FailureKind::Unavailable, "{failure}");
                    assert!(failure.is_determinate(), "{failure}");
                    let mut crossed = plain;
                    crossed.addresses[0].endpoint = secure.addresses[0].endpoint.clone();
                    let failure = ask(&client(crossed), write()).await.unwrap_err();
                    assert_eq!(failure.kind, FailureKind::Invalid, "{failure}");
                })
            },
        ),
        Trial::test(
            "kv/consul/the_next_address_is_used_when_one_refuses",
            || {
                run(&plain, |good| async move {
                    // Bound and not listening: nobody else gets it, and it refuses.
                    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                    let address = format!("http://{}", closed.local_addr().unwrap());
                    drop(closed);
                    let mut addresses = vec![address.parse().unwrap()];
                    addresses.push(good.current().clone());
                    let two = client(Config::new(addresses));
                    ask(&two, write()).await.unwrap();
                    assert_eq!(two.current(), good.current());
                })
            },
        ),
        Trial::test("kv/consul/without_a_leader_a_write_may_yet_happen", || {
            run(&leaderless, |consul| async move {
                let failure = ask(&consul, write()).await.unwrap_err();
                assert_eq!(failure.kind, FailureKind::Unavailable, "{failure}");
                assert!(!failure.is_determinate(), "{failure}");
                assert_eq!(consul.agent().leader().await.unwrap(), None);
            })
        }),
        Trial::test("kv/consul/who_never_had_a_leader_answers_no_read", || {
            run(&leaderless, |consul| async move {
                // Even a stale read: what there is was never anybody's.
                for consistency in [Consistency::Stale, Consistency::Default] {
                    let request = Request::Get {
                        key: "none".to_owned(),
                        consistency,
                        wait: None,
                    };
                    let failure = ask(&consul, request).await.unwrap_err();
                    assert_eq!(failure.kind, FailureKind::Unavailable, "{failure}");
                }
            })
        }),
    ]
}

fn config() -> Config {
    match secure_config() {
        Ok(config) => config,
        Err(_) => panic!("the server ran a moment ago"),
    }
}

fn write() -> Request {
    Request::put("refused", "a", Condition::Any)
}

async fn ask(consul: &RealConsul, request: Request) -> Result<(), Failure> {
    consul.call(request).await.map(drop)
}

async fn refusals(consul: &RealConsul) -> Vec<Failure> {
    let mut failures = Vec::new();
    let session = NewSession {
        name: String::new(),
        ttl: std::time::Duration::from_secs(10),
        behavior: Behavior::Release,
        lock_delay: std::time::Duration::ZERO,
    };
    for request in [
        write(),
        Request::get("refused"),
        Request::list("refused"),
        Request::SessionCreate(session),
    ] {
        let failure = ask(consul, request.clone()).await.unwrap_err();
        assert_eq!(
            failure.kind,
            FailureKind::Forbidden,
            "{request:?}: {failure}"
        );
        assert!(failure.is_determinate(), "{request:?}: {failure}");
        failures.push(failure);
    }
    failures
}
