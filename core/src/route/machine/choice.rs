//! Who leads, whose turn it is, and what terms are believed.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::time::Instant;

use super::super::{Event, Name, Pool, TERM_MEMORY};
use super::Router;
use super::backend::Backend;
use super::sessions::Target;

impl Router {
    /// Decide anew who leads, and reset the sessions to whom it was.
    pub(super) fn elect(&mut self, now: Instant) {
        // Seen is seen, whether or not it is up yet.
        let claims = self.backends.values().filter_map(|backend| backend.term);
        self.term = self.term.max(claims.max());
        let chosen = self.rightful();
        self.watch_regression(now);
        self.tell_ambiguity(chosen.as_ref());
        if chosen == self.leader {
            return;
        }
        let from = std::mem::replace(&mut self.leader, chosen.clone());
        self.tell(Event::Switched {
            from: from.clone(),
            to: chosen,
            term: self.term,
        });
        if let Some(from) = from {
            self.abandon(Pool::Exclusive, &from);
        }
    }

    /// Of those that are up and lead by the highest term that was seen: one whose last check was
    /// answered, of those the one that is led to already, of those the first by name.
    ///
    /// One term for two happens when a new leader does not know its own yet: then the old one is
    /// silent as a rule.
    fn rightful(&self) -> Option<Name> {
        let rank = |name: &&Name| {
            let is_silent = self.backends.get(*name).is_none_or(Backend::is_silent);
            (is_silent, self.leader.as_ref() != Some(*name))
        };
        self.claims().min_by_key(rank).cloned()
    }

    /// Who is up and leads by the highest term that was seen.
    fn claims(&self) -> impl Iterator<Item = &Name> {
        let up = self.backends.iter().filter(|(_, b)| b.leads.up);
        up.filter(|(_, b)| b.term.is_some() && b.term == self.term)
            .map(|(name, _)| name)
    }

    fn tell_ambiguity(&mut self, kept: Option<&Name>) {
        let pair = kept.and_then(|kept| {
            let other = self.claims().find(|name| *name != kept)?;
            Some((kept.clone(), other.clone()))
        });
        if pair == self.ambiguous {
            return;
        }
        self.ambiguous.clone_from(&pair);
        if let (Some((kept, other)), Some(term)) = (pair, self.term) {
            self.tell(Event::Ambiguous { kept, other, term });
        }
    }

    /// Whether somebody leads by a lower term than the highest, and nobody by that.
    fn watch_regression(&mut self, now: Instant) {
        let mut claims = self.backends.values().filter(|b| b.term.is_some());
        let highest_is_gone = claims.clone().all(|b| b.term < self.term);
        let is_regressed = highest_is_gone && claims.any(|b| b.leads.up);
        self.regressed = match is_regressed {
            true => self.regressed.or(Some(now)),
            false => None,
        };
    }

    /// Who leads by a lower term than the highest that was seen, and is therefore not led to.
    pub(super) fn pretender(&self) -> Option<(&Name, u64)> {
        self.regressed?;
        let up = self.backends.iter().filter(|(_, b)| b.leads.up);
        up.filter_map(|(name, b)| Some((name, b.term?)))
            .max_by_key(|(_, term)| *term)
    }

    pub(super) fn forget_at(&self) -> Option<Instant> {
        self.regressed.map(|since| since + TERM_MEMORY)
    }

    /// Time passed: believe a lower term when nothing else was heard for long.
    pub(super) fn forget_term(&mut self, now: Instant) {
        if self.forget_at().is_none_or(|at| now < at) {
            return;
        }
        let highest = self.backends.values().filter_map(|b| b.term).max();
        if let (Some(was), Some(highest)) = (self.term, highest) {
            self.term = None;
            self.tell(Event::TermForgotten { was, now: highest });
        }
        self.elect(now);
        self.place_all();
    }

    /// Where a session of this pool is led next, but to none of `tried`.
    pub(super) fn pick(&mut self, pool: Pool, tried: &BTreeSet<Name>) -> Option<Target> {
        if pool == Pool::Exclusive || (self.config.fall_back && !self.has_followers()) {
            let leader = self.leader.as_ref().filter(|name| !tried.contains(*name))?;
            return Some(Target {
                role: Pool::Exclusive,
                backend: leader.clone(),
            });
        }
        let backend = self.next_follower(tried)?;
        self.turn = Some(backend.clone());
        Some(Target {
            role: Pool::Shared,
            backend,
        })
    }

    pub(super) fn has_followers(&self) -> bool {
        self.backends.values().any(|backend| backend.follows.up)
    }

    fn next_follower(&mut self, tried: &BTreeSet<Name>) -> Option<Name> {
        let Some(last) = self.turn.clone() else {
            let names: Vec<Name> = self.followers(tried, Bound::Unbounded).collect();
            // Nodes that started together do not all begin with the same server.
            let bound = u64::try_from(names.len()).ok().filter(|len| *len > 0)?;
            let nth = usize::try_from(self.entropy.below(bound)).unwrap_or(0);
            return names.into_iter().nth(nth);
        };
        let mut after = self.followers(tried, Bound::Excluded(&last));
        let next = after.next();
        drop(after);
        next.or_else(|| self.followers(tried, Bound::Unbounded).next())
    }

    fn followers<'a>(
        &'a self,
        tried: &'a BTreeSet<Name>,
        from: Bound<&'a Name>,
    ) -> impl Iterator<Item = Name> + 'a {
        let range = self.backends.range((from, Bound::Unbounded));
        range
            .filter(|(name, backend)| backend.follows.up && !tried.contains(*name))
            .map(|(name, _)| name.clone())
    }
}
