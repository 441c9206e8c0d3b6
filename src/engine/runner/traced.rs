//! A document that somebody at the screen wants to see. The runner only journals what must be journalled, and goes on.

use super::{Over, Runner};
use crate::engine::trace;
use crate::journal::By;
use crate::rollout::Event;
use crate::snapshot::TraceAsk;

/// Characters of a key that the journal keeps of a reveal.
const KEY: usize = 200;

impl Runner {
    /// Has it looked up. That values which the plan masks are shown is in the journal before they are.
    pub(super) async fn traced(&mut self, ask: TraceAsk) -> Result<(), Over> {
        if ask.reveal && !self.ctx.plan.masked.is_empty() {
            self.revealed(By::Operator(None), &ask.key).await?;
        }
        let (ctx, publisher) = (self.ctx.clone(), self.publisher.clone());
        let (state, history) = (self.state.clone(), self.history.clone());
        self.ctx.spawn("trace", trace::answer(ctx, publisher, state, history, ask));
        Ok(())
    }

    /// Journals that somebody sees masked values of a key.
    pub(super) async fn revealed(&mut self, by: By, key: &str) -> Result<(), Over> {
        let key = crate::scrub::short(key.trim(), KEY);
        Ok(self.journal_by(by, Event::Revealed { key }).await?)
    }
}
