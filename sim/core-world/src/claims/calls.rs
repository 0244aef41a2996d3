//! What processes ask the KV, what it answers, and what goes wrong with it.

use holdfast_core::kv::{Failure, Request, Response};
use holdfast_core::recorder::Record;
use holdfast_core::slots::{CallId, Event, Input, Output};
use holdfast_kv_model::Faults;
use holdfast_net_model::Ratio;
use holdfast_plan::{KvFault, SlotSeen};

use super::{Claims, Part, RESTART_AFTER, Scene};

impl Claims {
    /// A deadline has come: of the KV, or of an instance.
    pub fn handle_deadline<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>, process: usize) {
        match process.checked_sub(self.process + 1) {
            None => self.kv.handle_deadline(scene.clock.now(scene.now)),
            Some(node) => self.wake(scene, node),
        }
        self.settle(scene);
    }

    pub(super) fn wake<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>, node: usize) {
        let now = scene.at(node);
        let member = &mut self.members[node];
        if member.paused {
            return;
        }
        let Some(run) = &mut member.run else {
            if member.restart_at.is_some_and(|at| at <= scene.now) {
                return self.boot(scene, node);
            }
            return self.arm(scene, node);
        };
        match &mut run.part {
            Part::Boot(..) => self.go_on_booting(scene, node),
            Part::Claim(slots) => {
                if let Some((_, why)) = slots.deadline().filter(|(at, _)| *at <= now.mono) {
                    let record = Record::Deadline { why };
                    scene.journal.trace.record(scene.now, &member.name, &record);
                    slots.handle_deadline(now);
                }
                self.drain(scene, node);
            }
        }
        self.arm(scene, node);
    }

    pub(super) fn answer<T: Copy + Ord>(
        &mut self,
        scene: &mut Scene<'_, T>,
        node: usize,
        call: CallId,
        result: Result<Response, Failure>,
    ) {
        let now = scene.at(node);
        let member = &mut self.members[node];
        let Some(run) = &mut member.run else { return };
        if member.paused {
            return run.inbox.push_back((call, result));
        }
        if scene.journal.trace.is_on() {
            let what = format!("{call:?} {result:?}");
            let record = Record::Input { what };
            scene.journal.trace.record(scene.now, &member.name, &record);
        }
        if let Part::Claim(slots) = &mut run.part {
            slots.handle(now, Input::Answer { call, result });
        }
        self.drain(scene, node);
    }

    /// Carry out what a machine wants, and look who is live.
    pub(super) fn drain<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>, node: usize) {
        while let Some(run) = &mut self.members[node].run
            && let Part::Claim(slots) = &mut run.part
            && let Some(output) = slots.poll_output()
        {
            match output {
                Output::Call { call, request } => self.ask(scene, node, call, request),
                Output::Event(event) => {
                    self.observe(scene, node);
                    self.event(scene, node, event);
                }
            }
        }
        self.observe(scene, node);
        self.arm(scene, node);
    }

    pub(super) fn ask<T: Copy + Ord>(
        &mut self,
        scene: &mut Scene<'_, T>,
        node: usize,
        call: CallId,
        request: Request,
    ) {
        self.tickets += 1;
        let member = &mut self.members[node];
        if scene.journal.trace.is_on() {
            let what = format!("{call:?} {request:?}");
            let record = Record::Output { what };
            scene.journal.trace.record(scene.now, &member.name, &record);
        }
        if let Some(run) = &mut member.run {
            run.calls.insert(self.tickets, call);
            run.tries += u64::from(matches!(request, Request::Put { .. }));
        }
        let now = scene.clock.now(scene.now);
        self.kv.call(now, node as u32, self.tickets, request);
    }

    pub(super) fn event<T: Copy + Ord>(
        &mut self,
        scene: &mut Scene<'_, T>,
        node: usize,
        event: Event,
    ) {
        let run = self.members[node].run.as_ref();
        let (instance, tries) =
            run.map_or_else(Default::default, |run| (run.instance.clone(), run.tries));
        match event {
            Event::Owned { slot, rejoined } => {
                let what = SlotSeen::SlotOwned {
                    slot,
                    instance,
                    rejoined,
                    tries,
                };
                self.note(scene, node, what);
                self.orders.push((node, Some(slot)));
            }
            Event::Waiting(why) => {
                let why = why.to_string();
                self.note(scene, node, SlotSeen::SlotWaiting { why });
            }
            Event::Lost { slot, why } => {
                let why = why.to_string();
                self.note(scene, node, SlotSeen::SlotLost { slot, why });
                self.end(scene, node, None);
                self.members[node].restart_at = Some(scene.now + RESTART_AFTER);
                self.arm(scene, node);
            }
            Event::Retired { slot } => {
                self.note(scene, node, SlotSeen::SlotRetired { slot });
                self.end(scene, node, Some(true));
            }
        }
    }

    /// Give away what the KV answers, and tell what changed in it, until it is quiet.
    pub(super) fn settle<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>) {
        while let Some(answered) = self.kv.poll_output() {
            let node = answered.client as usize;
            let run = self.members.get_mut(node).and_then(|m| m.run.as_mut());
            // Of a run that is gone, or one that was cancelled.
            let Some(call) = run.and_then(|run| run.calls.remove(&answered.ticket)) else {
                continue;
            };
            self.answer(scene, node, call, answered.result);
        }
        self.tell_changes(scene);
        let due = self.kv.deadline().map(|(at, _)| scene.clock.local_of(at));
        let due = due.map(|due| due.max(scene.now));
        scene.timers.arm(self.process, due);
    }

    pub(super) fn arm<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>, node: usize) {
        let member = &self.members[node];
        let clock = &scene.clocks[node];
        let due = match &member.run {
            _ if member.paused => None,
            None => member.restart_at,
            Some(run) => match &run.part {
                Part::Boot(_, due) => Some(clock.world(*due)),
                Part::Claim(slots) => slots
                    .deadline()
                    .map(|(at, _)| clock.world(clock.local_of(at))),
            },
        };
        let due = due.map(|due| due.max(scene.now));
        scene.timers.arm(self.process + 1 + node, due);
    }

    /// Something goes wrong with the KV.
    pub fn disturb<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>, fault: KvFault) {
        let now = scene.clock.now(scene.now);
        match fault {
            KvFault::Leader { after } => self.kv.change_leader(now, now.mono + after),
            KvFault::Away { lasts } => self.kv.set_unavailable(now, now.mono + lasts),
            KvFault::Cut { node, on } => self.kv.set_cut(now, u32::from(node.0), on),
            KvFault::Loss { lose, late } => {
                let none = lose == Ratio::NEVER && late == Ratio::NEVER;
                self.kv.set_faults(match none {
                    true => Faults::default(),
                    false => Faults {
                        lost_request: lose,
                        lost_answer: lose,
                        late_request: late,
                        ..Faults::default()
                    },
                });
            }
        }
        self.settle(scene);
    }
}
