//! What other terminals ask, carried out in the runner's turn.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Over, Runner};
use crate::engine::watch::{self, Order, Wish};
use crate::journal::By;
use crate::rollout::{Event, Status};
use crate::snapshot::Reply;

impl Runner {
    /// Asked from another terminal. Its id is in the journal before anything is done for it, and nothing is done twice for one id.
    pub(super) async fn asked(&mut self, order: Order) -> Result<(), Over> {
        let Order { asked, refusal, accepted, answered } = order;
        if self.state.closed || self.state.asked.contains_key(&asked.id) {
            // The journal answers for it.
            return Ok(());
        }
        let (id, by) = (asked.id.clone(), By::Operator(Some(asked.by.clone())));
        let text = asked.wish.words(&self.ctx.plan);
        self.journal_by(by.clone(), Event::CommandAsked { id: id.clone(), command: text, epoch: asked.epoch }).await?;
        let refusal = refusal.or_else(|| watch::elsewhere(&asked, &self.state, &self.ctx.plan));
        let reply = match (refusal, asked.wish) {
            (Some(why), _) => Reply::Refused(why),
            (None, Wish::Amend { plan, reason }) => {
                let _ = accepted.send(());
                self.amend(&plan, reason, by).await?
            }
            (None, Wish::Reveal { key }) => {
                self.revealed(by, &key).await?;
                Reply::Applied
            }
            (None, Wish::Command(command)) => {
                // Whoever listens may have been cut off; the record stands.
                let _ = accepted.send(());
                self.carry_out(command, by).await?
            }
        };
        let refused = if let Reply::Refused(why) = &reply { Some(why.clone()) } else { None };
        self.journal_now(Event::CommandAnswered { id, refused }).await?;
        let _ = answered.send(reply);
        Ok(())
    }

    /// Why an amendment would cut something off: the runner that has the plan gives way to another one.
    fn not_now(&self) -> Option<String> {
        if self.ctx.is_stopping() {
            return Some("the runner is stopping: `resume`, then amend".into());
        }
        if let Some(why) = &self.state.needs_operator {
            return Some(format!(
                "an operator is needed ({why}), and an amendment would go on without one: continue first"
            ));
        }
        self.state.back.is_some().then(|| "a rollback is under way: it is not held up by an amendment".into())
    }

    /// The plan of the journal is the amended one from here on; it takes effect at the next safe point, when this runner gives way to
    /// one that has it.
    async fn amend(&mut self, text: &str, reason: String, by: By) -> Result<Reply, Over> {
        if self.amended {
            return Ok(Reply::Refused("an amendment is about to take effect: look at it, then ask again".into()));
        }
        if matches!(self.state.status, Status::Completed | Status::RolledBack) {
            // It only tells its hooks so before its journal is closed.
            return Ok(Reply::Refused("the rollout is over: nothing is left to amend".into()));
        }
        if let Some(why) = self.not_now() {
            return Ok(Reply::Refused(why));
        }
        let plan = match watch::amended(text, &self.ctx.plan, &self.state) {
            Ok(plan) => plan,
            Err(why) => return Ok(Reply::Refused(why)),
        };
        let (was, is) = (self.ctx.plan.hash.clone(), plan.plan.hash.clone());
        let reason = crate::scrub::short(&reason, 300);
        self.journal_by(by, Event::Amended { was, is, reason, changes: plan.changes }).await?;
        self.publisher.set_amended(Arc::new(plan.plan));
        self.amended = true;
        self.ctx.stopping.store(true, Ordering::SeqCst);
        Ok(Reply::Accepted)
    }
}
