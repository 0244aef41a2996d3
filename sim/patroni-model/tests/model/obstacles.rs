//! What the model refuses.

use std::time::Duration;

use holdfast_patroni_model::{obstacle, play};
use holdfast_plan::drill::{Blow, Drill};

use crate::drills::soft;

fn refused(drill: &Drill) -> String {
    let why = obstacle(drill).expect("it is refused");
    let round = play(drill, 1);
    assert!(round.cut_short);
    assert_eq!(round.notes, std::slice::from_ref(&why));
    why
}

#[test]
fn a_drill_of_three_workers_is_played() {
    assert_eq!(obstacle(&soft()), None);
}

#[test]
fn what_cannot_be_played_is_refused_with_its_reason() {
    let alone = Drill {
        workers: 1,
        ..soft()
    };
    assert!(refused(&alone).contains("1 workers"));
    let without_kv = Drill {
        coordinators: 0,
        ..soft()
    };
    assert!(refused(&without_kv).contains("coordinator"));
    let link = |text: &str| Drill {
        link: Some(text.to_owned()),
        ..soft()
    };
    assert!(refused(&link("fast")).contains("fast"));
    assert!(refused(&link("blackhole")).contains("never carries"));
    assert!(refused(&link("ge=1/90:1/10")).contains("bursts"));
    let copy = Blow::Copy {
        link: "loss=2".to_owned(),
    };
    assert!(
        refused(&Drill {
            blow: copy,
            ..soft()
        })
        .contains("loss=2")
    );
    let mut hasty = soft();
    hasty.work.every = Duration::ZERO;
    assert!(refused(&hasty).contains("never pause"));
    let mut patient = soft();
    patient.write_bound = Duration::MAX;
    assert!(refused(&patient).contains("a day"));
}
