//! A PostgreSQL that does not run and should.

use super::{Action, Dcs, Patroni, Rewind, Role};
use crate::calibration as cal;
use crate::pg::{CHECKPOINT_BYTES, Control};

impl Patroni {
    pub(crate) async fn recover(&self) -> Result<(), Dcs> {
        let me = self.me;
        if self.has_lock() && self.update_lock(false).await? {
            self.with(|world| {
                let source = "Patroni's log: PostgreSQL does not run";
                world.mark(holdfast_plan::drill::Point::Detected, Some(me), source);
            });
            // `primary_start_timeout` is 0: somebody else is better than this one, restarted.
            if self.failover_possible(0).await {
                self.demote_immediately().await;
                return Ok(());
            }
        }
        let crashed = self.with(|world| world.pg[me].control == Control::InProduction);
        if crashed && !self.face(|face| std::mem::replace(&mut face.crash_recovery_tried, true)) {
            self.beside(Action::CrashRecovery, self.clone().recover_alone());
            return Ok(());
        }
        self.load().await?;
        let leader = if self.has_lock() {
            self.face(|face| face.rewind = Rewind::Unknown);
            None
        } else {
            self.face(|face| {
                if face.rewind != Rewind::Done {
                    face.rewind = Rewind::Check;
                }
            });
            if self.rewind_if_needed().await {
                return Ok(());
            }
            self.face(|face| face.cluster.leader.map(|leader| leader.who))
        };
        self.with(|world| world.set_names(me, None));
        self.face(|face| {
            face.recovering = true;
            face.role = Role::Replica;
        });
        let upstream = leader.filter(|leader| *leader != me);
        self.beside(Action::Start, self.clone().start_replica(upstream));
        Ok(())
    }

    /// Crash recovery in single-user mode, which ends with a checkpoint of its own.
    async fn recover_alone(self) {
        let wait = self.with(|world| {
            let spread = cal::of(world.settings.transport, cal::CRASH_RECOVERY);
            spread.draw(&mut world.dice)
        });
        self.sleep(wait).await;
        self.with(|world| {
            let pg = &mut world.pg[self.me];
            if !pg.runs() && !pg.empty {
                pg.control = Control::ShutDown;
                pg.lsn += CHECKPOINT_BYTES;
            }
        });
    }
}
