//! What PostgreSQL wrote, as a tree of timelines.
//!
//! Two members that were promoted from the same timeline have timelines of the same number and
//! different content, so a branch has an identity of its own. What a member has is a branch and a
//! position: all of the branch up to there, and of its ancestors up to where it left them.

/// A row: which client's, and which of its writes.
pub(crate) type Row = (u32, u32);

pub(crate) struct Branch {
    pub(crate) timeline: u32,
    /// The branch that it left, and where.
    parent: Option<(usize, u64)>,
    rows: Vec<(u64, Row)>,
    register: Vec<(u64, u64)>,
}

/// All branches of a round.
pub(crate) struct Wal {
    branches: Vec<Branch>,
}

impl Wal {
    pub(crate) fn new() -> Self {
        let root = Branch {
            timeline: 1,
            parent: None,
            rows: Vec::new(),
            register: Vec::new(),
        };
        Self {
            branches: vec![root],
        }
    }

    pub(crate) fn timeline(&self, branch: usize) -> u32 {
        self.branches[branch].timeline
    }

    /// A new timeline, that leaves `branch` at `position`.
    pub(crate) fn fork(&mut self, branch: usize, position: u64) -> usize {
        self.branches.push(Branch {
            timeline: self.timeline(branch) + 1,
            parent: Some((branch, position)),
            rows: Vec::new(),
            register: Vec::new(),
        });
        self.branches.len() - 1
    }

    pub(crate) fn append(&mut self, branch: usize, position: u64, row: Row) {
        self.branches[branch].rows.push((position, row));
    }

    /// The register has another value from there on.
    pub(crate) fn set_register(&mut self, branch: usize, position: u64, value: u64) {
        self.branches[branch].register.push((position, value));
    }

    /// The register's value at the end of a branch, if anybody ever set it.
    pub(crate) fn register(&self, branch: usize) -> Option<u64> {
        let (mut branch, mut least) = (branch, u64::MAX);
        loop {
            let all = self.branches[branch].register.iter().rev();
            let found = all.into_iter().find(|(at, _)| *at <= least);
            if let Some((_, value)) = found {
                return Some(*value);
            }
            let (parent, left) = self.branches[branch].parent?;
            (branch, least) = (parent, least.min(left));
        }
    }

    /// Up to which position two branches have the same content.
    pub(crate) fn agree(&self, one: usize, other: usize) -> u64 {
        let path = |mut branch: usize| {
            let mut path = vec![(branch, u64::MAX)];
            let mut least = u64::MAX;
            while let Some((parent, position)) = self.branches[branch].parent {
                least = least.min(position);
                path.push((parent, least));
                branch = parent;
            }
            path
        };
        let ours = path(one);
        let common = path(other).into_iter().find_map(|(branch, theirs)| {
            let found = ours.iter().find(|(candidate, _)| *candidate == branch)?;
            Some(found.1.min(theirs))
        });
        common.unwrap_or(0)
    }

    /// All rows of a branch up to a position, of the latest branch first.
    pub(crate) fn rows(&self, branch: usize, position: u64) -> Vec<Row> {
        let (mut branch, mut least, mut rows) = (branch, position, Vec::new());
        loop {
            let all = self.branches[branch].rows.iter();
            rows.extend(all.filter(|(at, _)| *at <= least).map(|(_, row)| *row));
            let Some((parent, left)) = self.branches[branch].parent else {
                return rows;
            };
            (branch, least) = (parent, least.min(left));
        }
    }
}
